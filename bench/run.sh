#!/usr/bin/env bash
# Measures bmapfs in one run: a mount against the raw image (reads and writes, a walk over a million block files,
# mount time and memory), scans against a bare loop, verifying against b3sum, resyncs against rsync on the whole image,
# sparse ones too. Prints ratios, appends them to RESULTS.md, draws results.svg, resync.svg and snapshot.svg, and puts
# the tables of resyncs into doc/COMPARISON.md.
# README.md beside this file explains the method and the variables.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
here=$(cd "$(dirname "$0")" && pwd)

BMAPFS=${BMAPFS:-$here/../target/release/bmapfs}
quick=${BENCH_QUICK:-}
BARE_HASH=${BARE_HASH:-$here/../target/release/examples/bare-hash}
parts=${BENCH_PARTS:-io walk memory scan verify first resync virtsync snapshot libvirt}
media=${BENCH_MEDIA:-ram disk}
operations=${BENCH_OPERATIONS:-read randread write randwrite}
sizes=${BENCH_SIZES:-4K 128K 256K 1M}
workers=${BENCH_WORKERS:-1 2}
rounds=${BENCH_ROUNDS:-5}
seconds=${BENCH_SECONDS:-1}
image_mib=${BENCH_IMAGE_MIB:-1024}
walk_blocks=${BENCH_WALK_BLOCKS:-1048576}
scan_mib=${BENCH_SCAN_MIB:-4096}
scan_sparse=${BENCH_SCAN_SPARSE:-1T 16T}
verify_mib=${BENCH_VERIFY_MIB:-4096}
libvirt_mib=${BENCH_LIBVIRT_MIB:-4096}
first_cases=${BENCH_FIRST:-ram/local disk/local disk/link}
first_mib=${BENCH_FIRST_MIB:-4096}
first_rounds=${BENCH_FIRST_ROUNDS:-3}
resync_cases=${BENCH_RESYNC:-ram/local ram/link disk/local disk/link}
resync_percents=${BENCH_PERCENTS:-0 1 10}
resync_rounds=${BENCH_RESYNC_ROUNDS:-3}
resync_disk_rounds=${BENCH_RESYNC_DISK_ROUNDS:-1}
resync_ram_mib=${BENCH_RESYNC_RAM_MIB:-4096}
resync_disk_mib=${BENCH_RESYNC_DISK_MIB:-16384}
run_kib=${BENCH_RUN_KIB:-1024}
virtsync_cases=${BENCH_VIRTSYNC:-ram/local disk/local disk/link}
virtsync_rounds=${BENCH_VIRTSYNC_ROUNDS:-1}
virtsync_gib=${BENCH_VIRTSYNC_GIB:-50}
virtsync_data_mib=${BENCH_VIRTSYNC_DATA_MIB:-3072}
virtsync_list_mib=${BENCH_VIRTSYNC_LIST_MIB:-1024}
snapshot_gib=${BENCH_SNAPSHOT_GIB:-1 4 16 64}
snapshot_extents=${BENCH_SNAPSHOT_EXTENTS:-10000}
ram=${BENCH_RAM:-/dev/shm}
disk=${BENCH_DISK:-/var/tmp}
results=${BENCH_RESULTS:-$here/RESULTS.md}
plot=${BENCH_PLOT:-$here/results.svg}
resync_plot=${BENCH_RESYNC_PLOT:-$here/resync.svg}
snapshot_plot=${BENCH_SNAPSHOT_PLOT:-$here/snapshot.svg}
comparison=${BENCH_COMPARISON-$here/../doc/COMPARISON.md}
read -r -a options <<<"${BENCH_OPTIONS:-}"
if [ -n "$quick" ]; then
    media=${BENCH_MEDIA:-ram}
    sizes=${BENCH_SIZES:-4K 256K}
    rounds=${BENCH_ROUNDS:-1}
    image_mib=${BENCH_IMAGE_MIB:-256}
    walk_blocks=${BENCH_WALK_BLOCKS:-65536}
    results=${BENCH_RESULTS:-/dev/null}
    plot=${BENCH_PLOT:-/dev/null}
    scan_mib=${BENCH_SCAN_MIB:-512}
    scan_sparse=${BENCH_SCAN_SPARSE:-1T}
    verify_mib=${BENCH_VERIFY_MIB:-512}
    libvirt_mib=${BENCH_LIBVIRT_MIB:-512}
    first_mib=${BENCH_FIRST_MIB:-512}
    first_rounds=${BENCH_FIRST_ROUNDS:-1}
    resync_rounds=${BENCH_RESYNC_ROUNDS:-1}
    resync_ram_mib=${BENCH_RESYNC_RAM_MIB:-512}
    resync_disk_mib=${BENCH_RESYNC_DISK_MIB:-512}
    resync_plot=${BENCH_RESYNC_PLOT:-/dev/null}
    virtsync_gib=${BENCH_VIRTSYNC_GIB:-2}
    virtsync_data_mib=${BENCH_VIRTSYNC_DATA_MIB:-256}
    virtsync_list_mib=${BENCH_VIRTSYNC_LIST_MIB:-256}
    snapshot_gib=${BENCH_SNAPSHOT_GIB:-1}
    snapshot_plot=${BENCH_SNAPSHOT_PLOT:-/dev/null}
    comparison=${BENCH_COMPARISON-}
fi
# The block size of the I/O part is bmapfs's default, so that opening the block files is part of what is measured.
block_mib=4

work_ram=
work_disk=

# shellcheck source=bench/scan.sh
. "$here/scan.sh"
# shellcheck source=bench/verify.sh
. "$here/verify.sh"
# shellcheck source=bench/libvirt.sh
. "$here/libvirt.sh"
# shellcheck source=bench/first.sh
. "$here/first.sh"
# shellcheck source=bench/resync.sh
. "$here/resync.sh"
# shellcheck source=bench/virtsync.sh
. "$here/virtsync.sh"
# shellcheck source=bench/snapshot.sh
. "$here/snapshot.sh"

die() {
    echo "bench: $*" >&2
    exit 1
}

say() { echo "$*" >&2; }

# Returns when the daemon has ended, also where bmapfs's umount helper is not installed.
unmount() {
    local pid
    pid=$(daemon_of "$1")
    if [ "$(id -u)" = 0 ]; then umount "$1"; else fusermount3 -u "$1"; fi || return 1
    [ -z "$pid" ] || tail --pid="$pid" --sleep-interval=0.02 -f /dev/null
}

cleanup() {
    status=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    remove_link
    remove_snapshot_disk
    end_libvirt
    for work in "$work_ram" "$work_disk"; do
        [ -n "$work" ] || continue
        for _ in 1 2 3 4 5; do
            mountpoint -q "$work/mnt" || break
            unmount "$work/mnt" || sleep 1
        done
        if mountpoint -q "$work/mnt"; then
            say "bench: $work/mnt is still mounted: $work is left as it is"
        else
            rm -rf "$work"
        fi
    done
    exit "$status"
}

attach() { "$BMAPFS" ${options[@]+"${options[@]}"} -q "$@"; }

# The process that serves the mount at a directory, if there is one. Its command line still names the directory.
daemon_of() {
    local dir
    for dir in /proc/[0-9]*; do
        if [ "$(readlink "$dir/exe")" = "$BMAPFS" ] && tr '\0' '\n' <"$dir/cmdline" | grep -qxF "$1"; then
            echo "${dir#/proc/}"
            return
        fi
    done 2>/dev/null
}

# The middle one of the numbers on standard input.
median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# Seconds that a command takes: timed COMMAND...
timed() {
    local from=$EPOCHREALTIME
    "$@" >/dev/null
    awk -v a="$from" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.4f\n", b - a }'
}

# --- reads and writes ---------------------------------------------------------------------------------

# Names of the block files from number $1 to before $2, as fio wants them.
names() { seq -f %08.0f -s : "$1" $(($2 - 1)); }

# One fio run; prints KiB/s: measure raw|mount OPERATION WORKERS SIZE. In both cases each worker has its
# own share of the image, from the first byte to the last.
measure() {
    local where=$1 operation=$2 count=$3 size=$4 jobs share field n
    jobs=$work/jobs
    share=$((image_mib / count))
    {
        # invalidate=0 keeps the image in the page cache; without it fio drops it at every open.
        printf '%s\n' '[global]' ioengine=psync thread=1 group_reporting=1 invalidate=0 fallocate=none \
            allow_file_create=0 overwrite=1 norandommap=1 random_generator=tausworthe64 refill_buffers=0 \
            time_based=1 "runtime=$seconds" "rw=$operation" "bs=$size"
        for ((n = 0; n < count; n++)); do
            echo "[worker$n]"
            if [ "$where" = raw ]; then
                printf '%s\n' "filename=$work/image" "offset=$((share * n))M" "size=${share}M"
            else
                printf '%s\n' "directory=$work/mnt" "size=${share}M" "filesize=${block_mib}M" \
                    "filename=$(names $((share * n / block_mib)) $((share * (n + 1) / block_mib)))"
                case $operation in rand*) echo file_service_type=random ;; *) echo file_service_type=sequential ;; esac
            fi
        done
    } >"$jobs"
    case $operation in *read) field=7 ;; *) field=48 ;; esac
    fio --minimal --terse-version=3 "$jobs" 2>"$work/fio.log" | cut -d ';' -f "$field" ||
        die "fio: $(cat "$work/fio.log")"
}

# Fills lines of "medium operation workers size raw mount ratio" into $table; raw and mount in KiB/s.
measure_io() {
    local medium operation count size round mode
    for medium in $media; do
        if [ "$medium" = ram ]; then work=$work_ram; else work=$work_disk; fi
        head -c "${image_mib}M" /dev/urandom >"$work/image"
        sync "$work/image"
        for operation in $operations; do
            case $operation in *read) mode=-r ;; *) mode=-rw ;; esac
            attach "$mode" "$work/image" "$work/mnt"
            for count in $workers; do
                for size in $sizes; do
                    : >"$work/raw"
                    : >"$work/mounted"
                    for ((round = 0; round < rounds; round++)); do
                        # Write-back of the last run must not slow this one.
                        [ "$mode" = -r ] || sync "$work/image"
                        measure raw "$operation" "$count" "$size" >>"$work/raw"
                        [ "$mode" = -r ] || sync "$work/image"
                        measure mount "$operation" "$count" "$size" >>"$work/mounted"
                    done
                    paste "$work/raw" "$work/mounted" | awk '{ print $2 / $1 }' | median >"$work/ratio"
                    echo "$medium $operation $count $size $(median <"$work/raw") $(median <"$work/mounted") $(cat "$work/ratio")" |
                        tee -a "$table" |
                        awk '{ printf "%-4s %-9s %d x %-4s  raw %6.2f GB/s  mount %6.2f GB/s  ratio %.2f\n",
                            $1, $2, $3, $4, $5 * 1024 / 1e9, $6 * 1024 / 1e9, $7 }' >&2
                done
            done
            unmount "$work/mnt"
        done
        rm -f "$work/image"
    done
}

# --- walks --------------------------------------------------------------------------------------------

# Fills lines of "tool seconds" into $walks. Each walk has a mount of its own: nothing is in the kernel's caches.
measure_walks() {
    local tool round
    work=$work_ram
    truncate -s $((walk_blocks * 4096)) "$work/image"
    for tool in 'find -size' 'ls -l' 'ls -U'; do
        for ((round = 0; round < (rounds < 3 ? rounds : 3); round++)); do
            attach -b 4K "$work/image" "$work/mnt"
            case $tool in
            'find -size') timed find "$work/mnt" -size 4096c ;;
            'ls -l') timed env LC_ALL=C ls -lU "$work/mnt" ;;
            'ls -U') timed ls -U "$work/mnt" ;;
            esac
            unmount "$work/mnt"
        done | median | sed "s/^/$tool: /" | tee -a "$walks" | sed "s/^/$walk_blocks block files, /; s/\$/ s/" >&2
    done
    rm -f "$work/image"
}

# --- mount time and memory ----------------------------------------------------------------------------

# A number of KiB out of the status of the daemon.
memory_of() { awk -v key="$2:" '$1 == key { print $2 }' "/proc/$1/status"; }

# Fills lines of "size seconds rss-after-mount highest-after-reading" into $memories; sizes in KiB.
measure_memory() {
    local size round pid rss
    work=$work_ram
    for size in 1G 1T 16T; do
        rm -f "$work/image"
        truncate -s "$size" "$work/image"
        : >"$work/times"
        for ((round = 0; round < rounds; round++)); do
            timed attach "$work/image" "$work/mnt" >>"$work/times"
            if [ "$round" = 0 ]; then
                pid=$(daemon_of "$work/mnt")
                [ -n "$pid" ] || die "no bmapfs process serves $work/mnt"
                rss=$(memory_of "$pid" VmRSS)
                # Two readers of a GiB in all, and every name.
                cat "$work/mnt"/0000000? "$work/mnt"/0000001? >/dev/null &
                cat "$work/mnt"/000001?? >/dev/null
                wait "$!"
                find "$work/mnt" -size 4M >/dev/null
                echo "$size $rss $(memory_of "$pid" VmHWM)" >"$work/memory"
            fi
            unmount "$work/mnt"
        done
        echo "$(cat "$work/memory") $(median <"$work/times")" | awk '{ print $1, $4, $2, $3 }' | tee -a "$memories" |
            awk '{ printf "%-3s sparse: mounted in %.0f ms, resident %.1f MiB, at most %.1f MiB after reading\n",
                $1, $2 * 1000, $3 / 1024, $4 / 1024 }' >&2
    done
    rm -f "$work/image"
}

# --- the report ---------------------------------------------------------------------------------------

# The section of RESULTS.md for this run.
report() {
    local version revision
    version=$("$BMAPFS" --version)
    revision=$(git -C "$here" rev-parse --short HEAD 2>/dev/null || true)
    # fio takes 1 as a second, and 300ms as it says.
    case $seconds in *[!0-9]*) ;; *) seconds="$seconds s" ;; esac
    echo
    echo "## $version${revision:+ ($revision)}, $(date -u +%F)"
    echo
    echo "Linux $(uname -r), $(nproc) x $(awk -F ': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)," \
        "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo); $(fio --version);" \
        "disk: $(stat -f -c %T "$disk"); medians of $rounds rounds of $seconds," \
        "image of $image_mib MiB in the page cache${BENCH_OPTIONS:+; mounted with $BENCH_OPTIONS}."
    if [ -s "$table" ]; then
        echo
        echo "Throughput through the mount / of the raw image, with as many workers there (GB/s through the mount):"
        echo
        awk '
            { key = $1 " | " $2 " | " $3; if (!(key in seen)) { seen[key] = 1; keys[++rows] = key }
              if (!($4 in known)) { known[$4] = 1; size[++columns] = $4 }
              cell[key, $4] = sprintf("%.2f (%.2f)", $7, $6 * 1024 / 1e9)
              if ($3 == 1) one[$1, $2, $4] = $5
              else if (($1, $2, $4) in one) {
                  joint[$1 " | " $2 " | " $3 " / 1", $4] = sprintf("%.2f", $6 / one[$1, $2, $4])
                  if (!(("j", key) in seen)) { seen["j", key] = 1; joints[++more] = $1 " | " $2 " | " $3 " / 1" }
              } }
            END {
                printf "| medium | operation | workers |"; for (c = 1; c <= columns; c++) printf " %s |", size[c]
                printf "\n| --- | --- | --- |"; for (c = 1; c <= columns; c++) printf " --- |"; print ""
                for (r = 1; r <= rows; r++) {
                    printf "| %s |", keys[r]; for (c = 1; c <= columns; c++) printf " %s |", cell[keys[r], size[c]]
                    print ""
                }
                for (r = 1; r <= more; r++) {
                    printf "| %s |", joints[r]; for (c = 1; c <= columns; c++) printf " %s |", joint[joints[r], size[c]]
                    print ""
                }
            }' "$table"
        echo
        echo "Goals: 0.5 with one worker, 0.9 with two together / one raw worker (the rows \"2 / 1\")."
    fi
    if [ -s "$walks" ]; then
        echo
        echo "Walks over $walk_blocks block files, each on a fresh mount:" \
            "$(awk -F ': ' '{ printf "%s`%s` %.2f s", (NR > 1 ? ", " : ""), $1, $2 }' "$walks")."
    fi
    if [ -s "$memories" ]; then
        echo
        echo "| sparse image | mount | resident after the mount | highest, after reading and listing |"
        echo "| --- | --- | --- | --- |"
        awk '{ printf "| %s | %.0f ms | %.1f MiB | %.1f MiB |\n", $1, $2 * 1000, $3 / 1024, $4 / 1024 }' "$memories"
    fi
    report_scan
    report_verify
    report_libvirt
    report_first
    report_resync
    report_virtsync
    report_snapshot
}

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for tool in fio awk mountpoint rsync; do
    command -v "$tool" >/dev/null || die "$tool is missing: make deps"
done
BMAPFS=$(readlink -e "$(command -v "$BMAPFS")") || die "the binary is missing: cargo build --release, or set BMAPFS"
[ -x "$BARE_HASH" ] || die "$BARE_HASH is missing: cargo build --release --example bare-hash, or set BARE_HASH"
[ $((image_mib % (2 * block_mib))) = 0 ] || die "BENCH_IMAGE_MIB must be a multiple of $((2 * block_mib))"

work_ram=$(mktemp -d "$ram/bmapfs-bench.XXXXXX")
work_disk=$(mktemp -d "$disk/bmapfs-bench.XXXXXX")
mkdir "$work_ram/mnt" "$work_disk/mnt"
table=$work_disk/table
walks=$work_disk/walks
memories=$work_disk/memories
scans=$work_disk/scans
scan_memories=$work_disk/scan-memories
verifies=$work_disk/verifies
libvirts=$work_disk/libvirts
firsts=$work_disk/firsts
rechecks=$work_disk/rechecks
resyncs=$work_disk/resyncs
virtsyncs=$work_disk/virtsyncs
sparse_lists=$work_disk/sparse-lists
snapshots=$work_disk/snapshots
touch "$table" "$walks" "$memories" "$scans" "$scan_memories" "$verifies" "$firsts" "$rechecks" "$resyncs" "$virtsyncs" "$sparse_lists" "$snapshots" "$libvirts"

for part in $parts; do
    case $part in
    io) measure_io ;;
    walk) measure_walks ;;
    memory) measure_memory ;;
    scan) measure_scan ;;
    verify) measure_verify ;;
    first) measure_first ;;
    resync) measure_resync ;;
    virtsync) measure_virtsync ;;
    snapshot) measure_snapshot ;;
    libvirt) measure_libvirt ;;
    *) die "BENCH_PARTS: no part '$part': io, walk, memory, scan, verify, first, resync, virtsync, snapshot and libvirt are there" ;;
    esac
done
if [ ! -e "$results" ]; then
    printf '# Benchmark results\n\nAppended by run.sh, oldest first; README.md explains them.\n' >"$results"
fi
report | tee -a "$results"
caption="$("$BMAPFS" --version), $(date -u +%F)"
if [ -s "$table" ]; then "$here/plot.sh" "$table" "$caption" >"$plot"; fi
if [ -s "$snapshots" ]; then "$here/plot-snapshot.sh" "$snapshots" "$caption" >"$snapshot_plot"; fi
if [ -s "$resyncs" ]; then
    "$here/plot-resync.sh" "$resyncs" "$caption" >"$resync_plot"
    if [ -n "$comparison" ]; then into_comparison "$comparison" resync; fi
fi
if [ -s "$firsts" ] && [ -n "$comparison" ]; then into_comparison "$comparison" first; fi
if [ -s "$virtsyncs" ] && [ -n "$comparison" ]; then into_comparison "$comparison" virtsync; fi
