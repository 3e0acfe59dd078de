#!/usr/bin/env bash
# Draws the resync lines of run.sh as SVG on standard output: plot-resync.sh LINES CAPTION
# A line is "medium way percent tool seconds ..."; the bars are seconds.
set -euo pipefail

awk -v caption="$2" '
    function text(x, y, anchor, class, what) {
        printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, class, what
    }
    function once(list, value) { if (!((list, value) in place)) { place[list, value] = ++count[list]; name[list, count[list]] = value } }
    {
        panel = $1 "/" $2
        once("panel", panel); once("percent", $3)
        seconds[panel, $3, $4] = $5
        if ($5 > highest[panel]) highest[panel] = $5
    }
    END {
        tools = split("bmapfs delta whole hash", tool, " ")
        legend["bmapfs"] = "bmapfs run --index, rsync"; legend["delta"] = "rsync, deltas of the image"
        legend["whole"] = "rsync, whole image"; legend["hash"] = "one pass of BLAKE3"
        panel_width = 250; panel_height = 150; left = 30; gap = 30; ground = 90 + panel_height
        width = left + count["panel"] * (panel_width + gap)
        if (width < 760) width = 760
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n",
            width, ground + 40, width, ground + 40
        print "<style>text{font-family:sans-serif;font-size:11px;fill:#222}.h{font-size:14px;font-weight:bold}.t{font-size:12px;font-weight:bold}" \
            ".v{font-size:9px}.axis{stroke:#222}.bmapfs{fill:#4878a8}.delta{fill:#e0a040}.whole{fill:#70a860}.hash{fill:#999}</style>"
        printf "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, ground + 40
        text(left, 22, "start", "h", "Seconds of a resync, by the part of the image that changed")
        text(left, 40, "start", "", caption)
        for (t = 1; t <= tools; t++) {
            printf "<rect x=\"%d\" y=\"49\" width=\"10\" height=\"10\" class=\"%s\"/>\n", left + (t - 1) * 180, tool[t]
            text(left + (t - 1) * 180 + 14, 58, "start", "", legend[tool[t]])
        }
        for (p = 1; p <= count["panel"]; p++) {
            panel = name["panel", p]; x0 = left + (p - 1) * (panel_width + gap)
            split(panel, part, "/")
            text(x0 + panel_width / 2, 80, "middle", "t", (part[1] == "ram" ? "in RAM" : "on disk") ", " \
                (part[2] == "link" ? "over 1 Gbit/s" : "same machine"))
            printf "<line x1=\"%d\" x2=\"%d\" y1=\"%d\" y2=\"%d\" class=\"axis\"/>\n", x0, x0 + panel_width, ground, ground
            step = panel_width / count["percent"]; wide = step * 0.86 / tools
            for (c = 1; c <= count["percent"]; c++) {
                for (t = 1; t <= tools; t++) {
                    value = seconds[panel, name["percent", c], tool[t]]
                    tall = highest[panel] > 0 ? value / highest[panel] * (panel_height - 20) : 0
                    x = x0 + (c - 1) * step + step * 0.07 + (t - 1) * wide
                    printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"%s\"/>\n",
                        x, ground - tall, wide - 1, tall, tool[t]
                    text(x + wide / 2, ground - tall - 3, "middle", "v", sprintf("%.1f", value))
                }
                text(x0 + (c - 0.5) * step, ground + 14, "middle", "", name["percent", c] " %")
            }
        }
        print "</svg>"
    }' "$1"
