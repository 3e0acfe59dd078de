# Sourced by run.sh: `bmapfs verify` of a backup against `b3sum --check` with all processors. Uses run.sh's variables and
# functions.
# shellcheck shell=bash

# Seconds of each: b3sum_seconds, verify_seconds. Both must find that all is right.
b3sum_seconds() { (cd "$work/backup" && timed b3sum --check --quiet "$work_disk/sums"); }
verify_seconds() { timed "$BMAPFS" verify -q "--index=$work_disk/index" "$work/image" "$work/backup"; }

# Drops the pages of all block files from the page cache.
drop_backup() {
    local file
    for file in "$work"/backup/*; do drop "$file"; done
}

# Lines of "case b3sum verify ratio" into $verifies, rates in bytes a second: verify_rounds CASE COMMAND..., which is run
# before each measurement.
verify_rounds() {
    local what=$1 bytes=$((verify_mib * 1048576)) round
    shift
    : >"$work/reference"
    : >"$work/verify"
    for ((round = 0; round < rounds; round++)); do
        "$@"
        b3sum_seconds >>"$work/reference"
        "$@"
        verify_seconds >>"$work/verify"
    done
    paste "$work/reference" "$work/verify" | awk '{ print $1 / $2 }' | median >"$work/ratio"
    echo "$what $(median <"$work/reference") $(median <"$work/verify") $(cat "$work/ratio")" |
        awk -v bytes="$bytes" '{ print $1, bytes / $2, bytes / $3, $4 }' | tee -a "$verifies" |
        awk '{ printf "%-10s b3sum %6.2f GB/s  verify %6.2f GB/s  ratio %.2f\n", $1, $2 / 1e9, $3 / 1e9, $4 }' >&2
}

measure_verify() {
    local medium
    command -v b3sum >/dev/null || die "b3sum is missing: make deps"
    for medium in $media; do
        if [ "$medium" = ram ]; then work=$work_ram; else work=$work_disk; fi
        head -c "${verify_mib}M" /dev/urandom >"$work/image"
        "$BMAPFS" run -q "--index=$work_disk/index" "$work/image" -- rsync -a --inplace '{}/' "$work/backup/"
        "$BMAPFS" sums "--index=$work_disk/index" "$work/image" >"$work_disk/sums"
        rm -f "$work/image"
        sync -f "$work/backup"
        # Everything is in the page cache.
        b3sum_seconds >/dev/null
        verify_seconds >/dev/null
        verify_rounds "$medium" true
        if [ "$medium" = disk ]; then
            verify_rounds cold-disk drop_backup
            fincore --bytes --noheadings --output RES "$work"/backup/* |
                awk -v bytes=$((verify_mib * 1048576)) '{ sum += $1 } END { print sum / bytes }' >"$work_disk/verify-left"
        fi
        rm -rf "$work/backup" "$work_disk/index" "$work_disk/index.lock" "$work_disk/sums"
    done
}

report_verify() {
    [ -s "$verifies" ] || return 0
    echo
    echo "Verifying a backup of $verify_mib MiB in block files of 4 MiB:"
    echo
    echo "| backup | b3sum --check | bmapfs verify | verify / b3sum | goal |"
    echo "| --- | --- | --- | --- | --- |"
    awk '{ printf "| %s | %.2f GB/s | %.2f GB/s | %.2f | 0.95 |\n", $1, $2 / 1e9, $3 / 1e9, $4 }' "$verifies"
    if [ -s "$work_disk/verify-left" ]; then
        echo
        awk '{ printf "After a verify of a backup that was not cached %.1f %% of it are.\n", $1 * 100 }' \
            "$work_disk/verify-left"
    fi
}
