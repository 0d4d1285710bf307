#!/bin/sh
# Installs the named packages as root without letting any of them start a service: a server on a default port is the
# last thing a testbed wants. dpkg asks policy-rc.d before it starts one; 101 means "not now".
set -eu
exec 1>&2

policy=/usr/sbin/policy-rc.d
mark='placed by the postbound testbed for the time of an installation'

remove_policy() {
    if grep -qsF "$mark" "$policy"; then rm -f "$policy"; fi
}

remove_policy # of an installation that was killed
if [ ! -e "$policy" ]; then
    trap remove_policy EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" > "$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
    install --no-install-recommends "$@"
