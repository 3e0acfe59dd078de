# Sourced by run.sh: `bmapfs scan` against a bare loop of pread and BLAKE3, against dd on a cold disk, and its
# memory. Uses run.sh's variables and functions.
# shellcheck shell=bash

# Drops a file's pages from the page cache. What is dirty stays, so sync first.
drop() { dd if="$1" iflag=nocache count=0 status=none; }

# Seconds of a scan that reads everything, by its own clock: scan_seconds IMAGE INDEX
scan_seconds() {
    "$BMAPFS" scan -q "--index=$2" -o rescan --json "$1" | sed 's/.*"seconds":\([0-9.e-]*\).*/\1/'
}

# Lines of "case reference scan ratio" into $scans, rates in bytes a second; the reference is what "case" names.
record_scan() {
    local what=$1 bytes=$2
    paste "$work/reference" "$work/scan" | awk '{ print $1 / $2 }' | median >"$work/ratio"
    echo "$what $(median <"$work/reference") $(median <"$work/scan") $(cat "$work/ratio")" |
        awk -v bytes="$bytes" '{ print $1, bytes / $2, bytes / $3, $4 }' | tee -a "$scans" |
        awk '{ printf "%-18s reference %6.2f GB/s  scan %6.2f GB/s  ratio %.2f\n", $1, $2 / 1e9, $3 / 1e9, $4 }' >&2
}

measure_scan() {
    local medium round bytes index from
    bytes=$((scan_mib * 1048576))
    for medium in $media; do
        if [ "$medium" = ram ]; then work=$work_ram; else work=$work_disk; fi
        # Saving it takes an fsync, which is on a disk in real life.
        index=$work_disk/index
        head -c "$bytes" /dev/urandom >"$work/image"
        sync "$work/image"
        scan_seconds "$work/image" "$index" >"$work/scan"
        : >"$work/reference"
        : >"$work/scan"
        for ((round = 0; round < rounds; round++)); do
            "$BARE_HASH" "$work/image" | cut -d ' ' -f 2 >>"$work/reference"
            scan_seconds "$work/image" "$index" >>"$work/scan"
        done
        record_scan "$medium/bare-loop" "$bytes"
        if [ "$medium" = disk ]; then
            : >"$work/reference"
            : >"$work/scan"
            for ((round = 0; round < rounds; round++)); do
                drop "$work/image"
                timed dd if="$work/image" of=/dev/null bs=1M status=none >>"$work/reference"
                drop "$work/image"
                from=$EPOCHREALTIME
                scan_seconds "$work/image" "$index" >/dev/null
                awk -v from="$from" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }' >>"$work/scan"
            done
            record_scan cold-disk/dd "$bytes"
            echo "$(fincore --bytes --noheadings --output RES "$work/image") $bytes" >"$work_disk/left"
        fi
        measure_scan_memory "$scan_mib"M read
        rm -f "$work/image" "$index" "$index.lock"
    done
    work=$work_ram
    for size in $scan_sparse; do
        truncate -s "$size" "$work/image"
        measure_scan_memory "$size"
        rm -f "$work/image" "$index" "$index.lock"
    done
}

# Lines of "size blocks highest seconds" into $scan_memories, in KiB: after a listing, and after all was read if "$2" says so.
measure_scan_memory() {
    local index=$work_disk/index
    rm -f "$index"
    # The single quotes are for the inner shell, whose parent is bmapfs.
    # shellcheck disable=SC2016
    timed "$BMAPFS" run "--index=$index" "$work/image" -- \
        sh -c 'ls -U "$1" >/dev/null; [ -z "$3" ] || cat "$1"/* >/dev/null; sed -n "s/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p" /proc/$PPID/status >"$2"' \
        sh '{}' "$work/memory" "${2:-}" >"$work/times" 2>"$work/summary"
    echo "$1 $(sed -n 's/.*: \([0-9]*\) blocks, .*/\1/p' "$work/summary") $(cat "$work/memory") $(cat "$work/times")" |
        tee -a "$scan_memories" |
        awk '{ printf "%-5s first run with index: %.1f s, at most %.1f MiB, allowed %.1f MiB\n",
            $1, $4, $3 / 1024, 32 + $2 * 48 / 1048576 }' >&2
}

report_scan() {
    if [ -s "$scans" ]; then
        echo
        echo "Scans of $scan_mib MiB of random bytes:"
        echo
        echo "| medium / reference | reference | scan | scan / reference | goal |"
        echo "| --- | --- | --- | --- | --- |"
        awk '{ printf "| %s | %.2f GB/s | %.2f GB/s | %.2f | %s |\n", $1, $2 / 1e9, $3 / 1e9, $4,
            $1 ~ /dd/ ? "1.0" : "0.9" }' "$scans"
    fi
    if [ -s "$work_disk/left" ]; then
        echo
        awk '{ printf "After a scan of an image that was not cached %.1f %% of it are.\n", $1 / $2 * 100 }' \
            "$work_disk/left"
    fi
    if [ -s "$scan_memories" ]; then
        echo
        echo "| first run with an index | seconds | highest memory | allowed |"
        echo "| --- | --- | --- | --- |"
        awk '{ printf "| %s, %d blocks | %.1f | %.1f MiB | %.1f MiB |\n",
            $1, $2, $4, $3 / 1024, 32 + $2 * 48 / 1048576 }' "$scan_memories"
    fi
}
