# Sourced by run.sh: resyncs of images of growing size on XFS after 1 % changed, by `bmapfs run --snapshot`, by bmapfs
# that reads all of it, and by rsync on the whole image; and how long it takes to find out what changed. Uses run.sh's
# variables and functions, and those of resync.sh.
# shellcheck shell=bash

# A large image is the same GiB of random bytes again and again, shared: to every reader it is data, and it fits any
# disk. So are the backups to begin with.
make_snapshot_disk() {
    [ "$(id -u)" = 0 ] || { say 'bench: not root: no snapshots'; return 1; }
    snapshot_mount=$work_disk/xfs
    mkdir "$snapshot_mount"
    truncate -s 1T "$work_disk/xfs.img"
    mkfs.xfs -q "$work_disk/xfs.img"
    mount -o loop "$work_disk/xfs.img" "$snapshot_mount"
    head -c 1G /dev/urandom >"$snapshot_mount/seed"
    sync -f "$snapshot_mount"
}

remove_snapshot_disk() {
    if [ -n "$snapshot_mount" ] && mountpoint -q "$snapshot_mount"; then umount "$snapshot_mount"; fi
}
snapshot_mount=

# An image of $1 GiB, and backups of it: a file, and for both of bmapfs's ways a directory of block files.
make_snapshot_image() {
    local gib blocks number way commands=()
    rm -rf "$work"
    mkdir "$work"
    : >"$work/image"
    for ((gib = 0; gib < $1; gib++)); do commands+=(-c "reflink $snapshot_mount/seed 0 ${gib}G 1G"); done
    xfs_io "${commands[@]}" "$work/image" >/dev/null
    cp --reflink=always -a "$work/image" "$work/whole"
    blocks=$(($1 * 1024 / block_mib))
    for way in snapshot scan; do
        mkdir "$work/$way"
        for ((number = 0; number < blocks; number++)); do
            printf 'open -f %s/%s/%08d\nreflink %s/image %dM 0 %dM\nclose\n' \
                "$work" "$way" "$number" "$work" $((number * block_mib)) "$block_mib"
        done | xfs_io >/dev/null
        # Nothing to copy: this scans (a first run would not), and gives the block files their times.
        snapshot_options=(-o rescan)
        snapshot_sync "$way" --size-only
        snapshot_options=()
    done
}

# snapshot_sync WAY [OPTION of rsync...]; what bmapfs says goes to $work_disk/summary.
snapshot_sync() {
    local way=$1 options=(${snapshot_options[@]+"${snapshot_options[@]}"})
    shift
    [ "$way" = scan ] || options+=(--snapshot)
    case $way in
    rsync) rsync -a --inplace --no-whole-file "$work/image" "$work/whole" ;;
    *) "$BMAPFS" run ${options[@]+"${options[@]}"} "--index=$work_disk/snapshot-index-$way" "$work/image" -- \
        rsync -a --inplace --whole-file "$@" '{}/' "$work/$way/" 2>"$work_disk/summary" ;;
    esac || die "resync by $way: $(cat "$work_disk/summary")"
    sync -f "$work"
}

# A snapshot of an image that has not changed, and finding that out.
detect() {
    "$BMAPFS" scan -o debug --snapshot "--index=$work_disk/snapshot-index-$1" "$work/image" 2>"$work_disk/detect"
}

# Seconds of the comparison alone, by its own clock, and of all of detect, the medians of five.
detected() {
    detect "$1" >/dev/null
    for _ in 1 2 3 4 5; do
        echo "$(timed detect "$1") $(sed -n 's/.* compared in \([0-9.]*\) ms.*/\1/p' "$work_disk/detect")"
    done >"$work_disk/detected"
    echo "$(awk '{ print $2 / 1000 }' "$work_disk/detected" | median) $(awk '{ print $1 }' "$work_disk/detected" | median)"
}

extents_of() { filefrag "$1" | sed -n 's/.*: \([0-9]*\) extents\? found/\1/p'; }

# Lines of "GiB tool seconds bytes-read extents" into $snapshots. Tool "detect" has the seconds of the comparison,
# those of a whole scan, and extents; "many" the same of an image of many extents.
measure_snapshot() {
    local gib tool work read
    make_snapshot_disk || return 0
    work=$snapshot_mount/work
    for gib in $snapshot_gib; do
        rm -f "$work_disk"/snapshot-index-*
        make_snapshot_image "$gib"
        resync_bytes=$((gib * 1073741824))
        change 1
        for tool in snapshot scan rsync; do
            sync -f "$work"
            drop "$work/image"
            seconds_of=$(timed snapshot_sync "$tool")
            read=$((2 * resync_bytes))
            [ "$tool" = rsync ] || read=$(sed -n 's/.* \([0-9]*\) bytes read.*/\1/p' "$work_disk/summary")
            echo "$gib $tool $seconds_of $read $(extents_of "$work/image")" | note_snapshot
        done
        for tool in snapshot scan; do
            cat "$work/$tool"/* | cmp - "$work/image" || die "the backup by $tool differs from the image"
        done
        cmp "$work/whole" "$work/image" || die "rsync's own backup differs from the image"
        echo "$gib detect $(detected snapshot) $(extents_of "$work/image")" | note_snapshot
    done
    # Every second block of 4 KiB is written elsewhere.
    rm -rf "$work" "$work_disk"/snapshot-index-*
    mkdir "$work"
    cp --reflink=always "$snapshot_mount/seed" "$work/image"
    fio --name=x --filename="$work/image" --rw=write:4k --bs=4k --size=64M --io_size=$((snapshot_extents * 2048)) \
        --zonemode=none --ioengine=psync --overwrite=1 --fallocate=none >"$work_disk/fio.log" 2>&1 ||
        die "fio: $(cat "$work_disk/fio.log")"
    sync "$work/image"
    echo "1 many $(detected many) $(extents_of "$work/image")" | note_snapshot
    umount "$snapshot_mount"
}

note_snapshot() {
    tee -a "$snapshots" |
        awk '/detect|many/ { printf "%3d GiB  compared in %.1f ms, scanned in %.1f ms, %d extents\n", $1, $3 * 1e3,
                $4 * 1e3, $5; next }
            { printf "%3d GiB  %-8s %8.2f s  read %9.1f MB  %d extents\n", $1, $2, $3, $4 / 1e6, $5 }' >&2
}

report_snapshot() {
    [ -s "$snapshots" ] || return 0
    echo
    echo "Resync on XFS after 1 % changed, in runs of $run_kib KiB at random places; seconds, and what was read of image" \
        "(and, by rsync, backup). Detection: the comparison of two clones, by itself, and in parentheses all of" \
        "\`bmapfs scan --snapshot\` when nothing has changed."
    echo
    echo "| image | \`run --snapshot\` | \`run\`, all read | rsync, deltas | detection | extents |"
    echo "| --- | --- | --- | --- | --- | --- |"
    awk '$2 == "many" { many = sprintf("%d extents: %.0f ms (%.0f ms)", $5, $3 * 1000, $4 * 1000); next }
        { if (!($1 in seen)) { seen[$1] = 1; sizes[++n] = $1 } s[$1, $2] = $3; r[$1, $2] = $4; e[$1] = $5 }
        function cell(gib, tool, times) {
            times = tool == "snapshot" ? "" : sprintf(" (%.1f x)", s[gib, tool] / s[gib, "snapshot"])
            return sprintf("%.1f s, %.0f MB%s", s[gib, tool], r[gib, tool] / 1e6, times)
        }
        END {
            for (i = 1; i <= n; i++) printf "| %d GiB | %s | %s | %s | %.1f ms (%.0f ms) | %d |\n", sizes[i],
                cell(sizes[i], "snapshot"), cell(sizes[i], "scan"), cell(sizes[i], "rsync"),
                s[sizes[i], "detect"] * 1000, r[sizes[i], "detect"] * 1000, e[sizes[i]]
            if (many) printf "\nDetection in an image of %s.\n", many
        }' "$snapshots"
    echo
    echo "Goals: detection does not grow with the image, 50 ms for 10,000 extents; 10 times faster than what reads the image."
}
