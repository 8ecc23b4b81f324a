"""Executors: how the steps of a plan are carried out. One a module, loaded by name through an entry point.

To write one: implement base.Executor for one role, declare it in the group `hybridvif.link_executors` or
`hybridvif.switch_executors`, choose it with `[hybridvif] link_executor` or `switch_executor`. steps.simulate() says
what each step must do, steps.objection() when it must not; base.one_by_one() does the bookkeeping of one that is not
atomic.
"""
