# Sourced by run.sh: `bmapfs run libvirt:DOMAIN` after a quiet night and after 1 % changed, against a full read of the same disk
# through the same job, and against `qemu-img convert` of the image. Uses run.sh's variables and functions.
# shellcheck shell=bash

vm=bmapfs-bench-$$

bench_virsh() { virsh -q -c qemu:///system "$@"; }

# The libvirt of this machine, or one for as long as the benchmark lasts.
begin_libvirt() {
    local daemon
    command -v libvirtd >/dev/null || die "libvirtd is missing: make deps"
    libvirt_daemons=()
    libvirt_begun=yes
    # The tests' libvirtd ends with them, see tests/libvirt/daemons.rs.
    exec {libvirt_lock}>/run/bmapfs-tests-libvirt
    flock "$libvirt_lock"
    bench_virsh list >/dev/null 2>&1 && return
    # As udev makes it, see tests/libvirt/daemons.rs.
    if [ -e /dev/kvm ]; then chgrp kvm /dev/kvm && chmod 0660 /dev/kvm; fi
    for daemon in virtlogd libvirtd; do
        "$daemon" >/dev/null 2>&1 {libvirt_lock}>&- &
        libvirt_daemons+=($!)
    done
    until bench_virsh list >/dev/null 2>&1; do sleep 0.1; done
}

end_libvirt() {
    local at
    [ -n "${libvirt_begun:-}" ] || return 0
    libvirt_begun=
    bench_virsh destroy "$vm" >/dev/null 2>&1
    bench_virsh undefine "$vm" --checkpoints-metadata >/dev/null 2>&1
    for ((at = ${#libvirt_daemons[@]} - 1; at >= 0; at--)); do
        kill "${libvirt_daemons[at]}" && wait "${libvirt_daemons[at]}"
    done
    exec {libvirt_lock}>&-
    return 0
}

# The guest overwrites 1 % of the disk, in runs of 1 MiB.
guest_writes() {
    local count=$((libvirt_mib / 100)) at
    for ((at = 0; at < count; at++)); do
        bench_virsh qemu-monitor-command "$vm" --hmp \
            "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write -P $((RANDOM % 250 + 1)) $((at * 97 % libvirt_mib))M 1M\"" \
            >/dev/null
    done
}

# Lines of "case seconds" into $libvirts.
libvirt_case() {
    local what=$1 round
    shift
    : >"$work_disk/seconds"
    for ((round = 0; round < rounds; round++)); do
        if [ "$what" = changed ]; then guest_writes; fi
        # Nights are apart: a run waits for the seconds of the stamps of the one before to end.
        sleep 5
        timed "$@" >>"$work_disk/seconds"
    done
    echo "$what $(median <"$work_disk/seconds")" | tee -a "$libvirts" | awk '{ printf "libvirt %-10s %.2f s\n", $1, $2 }' >&2
}

measure_libvirt() {
    local run=("$BMAPFS" run -q "--index=$work_disk/libvirt/" "libvirt:$vm" --) image=$work_disk/vda.qcow2
    mkdir "$work_disk/libvirt" "$work_disk/vm"
    chmod 755 "$work_disk"
    head -c "${libvirt_mib}M" /dev/urandom >"$work_disk/raw"
    qemu-img convert -f raw -O qcow2 "$work_disk/raw" "$image"
    rm "$work_disk/raw"
    begin_libvirt
    cat >"$work_disk/vm.xml" <<XML
<domain type='qemu'><name>$vm</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><seclabel type='none'/><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='$image'/><target dev='vda' bus='virtio'/></disk>
</devices></domain>
XML
    bench_virsh define "$work_disk/vm.xml"
    bench_virsh start "$vm"
    "${run[@]}" rsync -a --inplace '{}/' "$work_disk/vm/"
    libvirt_case quiet "${run[@]}" rsync -a --inplace '{}/' "$work_disk/vm/"
    libvirt_case changed "${run[@]}" rsync -a --inplace '{}/' "$work_disk/vm/"
    libvirt_case full "${run[@]}" sh -c 'cat "$1"/vda/* >/dev/null' sh '{}'
    libvirt_case convert qemu-img convert -U -O raw "$image" "$work_disk/converted"
    end_libvirt
    rm -rf "$work_disk/vm" "$work_disk/libvirt" "$image" "$work_disk/converted"
}

report_libvirt() {
    [ -s "$libvirts" ] || return 0
    echo
    echo "A running domain with a qcow2 disk of $libvirt_mib MiB, full of random bytes, under QEMU without KVM:"
    echo
    echo "| night | time | goal |"
    echo "| --- | --- | --- |"
    awk '
        $1 == "quiet" { what = "run with an index, nothing written"; goal = "2 s" }
        $1 == "changed" { what = "run with an index, 1 % written"; goal = "" }
        $1 == "full" { what = "the same job, and all of the disk read"; goal = "" }
        $1 == "convert" { what = "qemu-img convert of the image"; goal = "" }
        { printf "| %s | %.2f s | %s |\n", what, $2, goal }' "$libvirts"
}
