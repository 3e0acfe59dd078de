#!/usr/bin/env bash
# Draws the snapshot lines of run.sh as SVG on standard output: plot-snapshot.sh LINES CAPTION
# A line is "GiB tool seconds ..."; seconds are on a logarithmic scale.
set -euo pipefail

awk -v caption="$2" '
    function text(x, y, anchor, class, what) {
        printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, class, what
    }
    function log10(x) { return log(x) / log(10) }
    function height(seconds) { return ground - (log10(seconds) - low) / (high - low) * tall }
    function abs(x) { return x < 0 ? -x : x }
    function floor(x) { return x == int(x) || x > 0 ? int(x) : int(x) - 1 }
    $2 != "many" {
        if (!($1 in place)) { place[$1] = ++sizes; size[sizes] = $1 }
        seconds[$1, $2] = $3
        if (!low_known || log10($3) < low) { low = log10($3); low_known = 1 }
        if (!high_known || log10($3) > high) { high = log10($3); high_known = 1 }
    }
    END {
        tools = split("rsync scan snapshot detect", tool, " ")
        legend["snapshot"] = "bmapfs run --snapshot, rsync"; legend["scan"] = "bmapfs run, all read, rsync"
        legend["rsync"] = "rsync, deltas of the image"; legend["detect"] = "finding out what changed"
        low = floor(low); high = floor(high) + 1
        left = 60; tall = 220; ground = 90 + tall; step = 150; width = left + sizes * step + 40
        if (width < 760) width = 760
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n",
            width, ground + 40, width, ground + 40
        print "<style>text{font-family:sans-serif;font-size:11px;fill:#222}.h{font-size:14px;font-weight:bold}" \
            ".v{font-size:9px}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}.rsync{fill:#e0a040;stroke:#e0a040}" \
            ".scan{fill:#70a860;stroke:#70a860}.snapshot{fill:#4878a8;stroke:#4878a8}.detect{fill:#999;stroke:#999}</style>"
        printf "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, ground + 40
        text(20, 22, "start", "h", "Seconds of a resync after 1 % changed, by the size of the image, on XFS")
        text(20, 40, "start", "", caption)
        for (t = 1; t <= tools; t++) {
            printf "<rect x=\"%d\" y=\"49\" width=\"10\" height=\"10\" class=\"%s\"/>\n", 20 + (t - 1) * 185, tool[t]
            text(20 + (t - 1) * 185 + 14, 58, "start", "", legend[tool[t]])
        }
        for (power = low; power <= high; power++) {
            y = ground - (power - low) / (high - low) * tall
            printf "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", left, left + sizes * step, y, y
            text(left - 6, y + 4, "end", "", sprintf("%g s", 10 ^ power))
        }
        for (t = 1; t <= tools; t++) {
            points = ""
            for (s = 1; s <= sizes; s++) {
                if (!((size[s], tool[t]) in seconds)) continue
                x = left + (s - 0.5) * step; y = height(seconds[size[s], tool[t]])
                points = points sprintf("%.1f,%.1f ", x, y)
                printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" class=\"%s\"/>\n", x, y, tool[t]
                text(x + 6, y - 5, "start", "v", sprintf("%.2g", seconds[size[s], tool[t]]))
            }
            printf "<polyline points=\"%s\" class=\"line %s\" style=\"fill:none\"/>\n", points, tool[t]
        }
        for (s = 1; s <= sizes; s++) text(left + (s - 0.5) * step, ground + 16, "middle", "", size[s] " GiB")
        print "</svg>"
    }' "$1"
