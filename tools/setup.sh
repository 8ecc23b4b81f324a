# shellcheck shell=bash
#
# What tools/demo, tools/test and .ci/run share: on a bare machine it installs what is missing, and on every later run it
# finds that nothing is. To be sourced; then `set_up [EXTRA...]`, and "$venv" holds hybridvif with these extras.
#
#   HYBRIDVIF_VENV    where the virtual environment is or shall be (default: .venv in this tree)
#   HYBRIDVIF_PYTHON  the Python to make it with (default: the first found that is 3.11 or newer)

# What is run and imported must not be found in the working directory, where others may write: not by an empty or a
# relative element of PATH, nor by CDPATH, nor by Python, which is started with -P (safe path) or -I (isolated).
unset CDPATH
PATH=$(
    IFS=: absolute=
    for directory in $PATH; do
        if [[ $directory == /* ]]; then
            absolute+=:$directory
        fi
    done
    printf '%s' "${absolute#:}"
)

root=$(cd "$(PATH=/usr/bin:/bin dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${HYBRIDVIF_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv
if [[ ${HYBRIDVIF_PYTHON:-} == */* && $HYBRIDVIF_PYTHON != /* ]]; then
    # A step may change directory.
    HYBRIDVIF_PYTHON=$PWD/$HYBRIDVIF_PYTHON
fi
stamp=$venv/hybridvif-installed # three lines: where the venv is, a digest of setup.cfg and $root, the extras

# set_up [EXTRA...]: system packages as far as may be, then the virtual environment.
set_up() {
    set_up_system
    set_up_venv "$@"
}

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

# Says one finished sentence and ends the program.
fail() {
    say "$*"
    exit 1
}

# logged WHAT COMMAND...: one line for what is done; what the command prints is shown only if it fails.
logged() {
    local what=$1 log status=0
    shift
    log=$(mktemp --tmpdir hybridvif-XXXXXX.log)
    say "$what"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if ((status)); then
        say "this failed with exit status $status: $*"
        tail -n 30 "$log" | sed 's/^/    /' >&2
        say "all that it printed is in $log"
    else
        rm -f "$log"
    fi
    return "$status"
}

# --- system packages ---------------------------------------------------------------------------------------------------

# Never stops: the demo and the tests work with what is there, and say what they lack.
set_up_system() {
    local family wanted name
    local -a missing=()
    if has_program apt-get; then
        family=dpkg
    elif has_program dnf; then
        family=rpm
    else
        family=other
    fi
    wanted=$(system_packages "$family")
    for name in $wanted; do
        is_there "$name" || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    if [[ $family == other ]]; then
        say "neither apt-get nor dnf is here; missing, by Debian's names: ${missing[*]}; going on without"
        return 0
    fi
    install_packages "$family" "${missing[@]}" || say "going on without: ${missing[*]}"
}

# The package names of bindep.txt for one family of systems.
system_packages() {
    local family=$1 name platform
    if [[ $family == other ]]; then
        family=dpkg
    fi
    while read -r name platform || [[ -n $name ]]; do
        if [[ -n $name && $name != \#* ]] && [[ -z $platform || $platform == "[platform:$family]" ]]; then
            printf '%s\n' "$name"
        fi
    done <"$root/bindep.txt"
}

# Whether what a package is wanted for is there, no matter where from: a host with an Open vSwitch built from source must
# not get a second one.
is_there() {
    case $1 in
        openvswitch*) has_program ovsdb-server && has_program ovs-vswitchd && has_program ovs-vsctl ;;
        bridge-utils) has_program brctl ;;
        iproute*) has_program ip && has_program tc ;;
        iputils*) has_program ping ;;
        util-linux) has_program unshare && has_program nsenter ;;
        procps*) has_program sysctl ;;
        udev) has_program udevadm ;;
        python3*) [[ -n ${HYBRIDVIF_PYTHON:-} ]] || fits "$venv/bin/python" || find_python ;;
        *) has_program "$1" ;;
    esac
}

# Debian leaves the sbin directories out of an ordinary user's PATH.
has_program() {
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin type -P "$1" >/dev/null
}

# install_packages dpkg|rpm PACKAGE...: as root or with a sudo that asks nothing; else says the line to run.
install_packages() {
    local family=$1
    shift
    local -a install become=()
    if [[ $family == dpkg ]]; then
        install=(apt-get install --no-install-recommends "$@")
    else
        install=(dnf install --setopt=strict=0 "$@")
    fi
    if ((EUID != 0)); then
        if ! sudo -n true 2>/dev/null; then
            say "missing: $*; to install them, run as root: ${install[*]}"
            return 1
        fi
        become=(sudo -n)
    fi
    become+=(env DEBIAN_FRONTEND=noninteractive)
    if [[ $family == dpkg ]]; then
        # apt-get fails while another one runs. A service that a package starts must not keep the lock (--close).
        become=(flock --close /var/lib/dpkg "${become[@]}")
        # A foreign repository that does not answer must not keep Debian's own packages out: the install will tell.
        logged "updating the list of system packages" "${become[@]}" apt-get update || true
    fi
    logged "installing system packages: $*" "${become[@]}" "${install[@]}" -y
}

# --- Python ------------------------------------------------------------------------------------------------------------

# set_up_venv [EXTRA...]: the virtual environment with hybridvif, editable, and at least these extras.
set_up_venv() {
    local key extras wanted old_place="" old_key="" old_extras=""
    key=$({ cat "$root/setup.cfg" && printf '%s\n' "$root"; } | sha256sum)
    if [[ -e $stamp ]]; then
        { read -r old_place && read -r old_key && read -r old_extras; } <"$stamp" || true
    fi
    if [[ -n $old_place && $old_place != "$venv" ]]; then
        say "$venv was moved here from $old_place; making it anew"
        rm -rf "$venv"
        old_extras=""
    fi
    extras=$(printf '%s\n' "${old_extras// /$'\n'}" "$@" | sort -u | xargs)
    if [[ $old_place == "$venv" && $old_key == "$key" && $extras == "$old_extras" ]] && fits "$venv/bin/python"; then
        return 0
    fi
    make_venv
    wanted=$root
    if [[ -n $extras ]]; then
        wanted+="[${extras// /,}]"
    fi
    # PIP_USER=0: a user's pip.conf may say otherwise, which a virtual environment refuses.
    PIP_USER=0 logged "installing hybridvif${extras:+ with $extras} into $venv" \
        "$venv/bin/python" -I -m pip install --disable-pip-version-check --editable "$wanted" \
        || fail "pip could not install hybridvif: is a package index within reach, and may $(id -un) write to $root?"
    printf '%s\n' "$venv" "$key" "$extras" >"$stamp"
}

# Makes the virtual environment unless there is one that works.
make_venv() {
    if fits "$venv/bin/python" && "$venv/bin/python" -I -c 'import pip' 2>/dev/null; then
        return 0
    fi
    if [[ -e $venv && ! -e $stamp && $venv != "$root/.venv" && -n $(ls -A "$venv") ]]; then
        fail "$venv is not a virtual environment that works, nor one made here; remove it or set HYBRIDVIF_VENV"
    fi
    find_python || fail "$why_no_python"
    mkdir -p "$venv" 2>/dev/null || true
    [[ -w $venv ]] || fail "$venv cannot be written by $(id -un); set HYBRIDVIF_VENV to a place that can"
    logged "making a virtual environment in $venv with $python" "$python" -I -m venv --clear "$venv" \
        || fail "$python could not make a virtual environment; set HYBRIDVIF_PYTHON to another Python"
}

# Sets $python to the first Python that will do; if none will, $why_no_python to the sentence that says so.
find_python() {
    local candidate without_venv=""
    local -a candidates
    if [[ -n ${HYBRIDVIF_PYTHON:-} ]]; then
        candidates=("$HYBRIDVIF_PYTHON")
    else
        candidates=(python3 python3.13 python3.12 python3.11 python3.14
            "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/3.*/bin/python)
    fi
    for candidate in "${candidates[@]}"; do
        # A pyenv shim is on the PATH for versions that are not chosen, so each is run.
        fits "$candidate" || continue
        if "$candidate" -I -c 'import ensurepip, venv' 2>/dev/null; then
            python=$(type -P "$candidate")
            return 0
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [[ -n $without_venv ]]; then
        why_no_python="$without_venv cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
    else
        why_no_python="hybridvif needs Python 3.11 or newer, and none of these is one: ${candidates[*]}; "
        why_no_python+="install one (dnf install python3.12; apt-get install python3.11-venv) or set HYBRIDVIF_PYTHON"
    fi
    return 1
}

# Whether this is a Python of a version that will do.
fits() {
    "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 </dev/null
}
