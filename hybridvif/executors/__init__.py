"""Executors carry out the steps of plans; each is loaded by name through an entry point.

To write one, implement `base.Executor` for one role. Declare it in the entry-point group `hybridvif.link_executors` or
`hybridvif.switch_executors`. Select it with `[hybridvif] link_executor` or `switch_executor`. `state.simulate()`
specifies the effect of each step and `state.objection()` its preconditions. `base.one_by_one()` is the loop of an
executor that is not atomic.
"""
