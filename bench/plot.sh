#!/usr/bin/env bash
# Draws the table of run.sh as SVG on standard output: plot.sh TABLE CAPTION
# A line of the table is "medium operation workers size raw mount ratio"; the bars are the ratios.
set -euo pipefail

awk -v caption="$2" '
    function title(operation) {
        if (operation == "read") return "sequential read"
        if (operation == "randread") return "random read"
        if (operation == "write") return "sequential write"
        return "random write"
    }
    function text(x, y, anchor, class, what) {
        printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", x, y, anchor, class, what
    }
    function line(x1, x2, y, class) {
        printf "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, x2, y, y, class
    }
    # Height of a ratio above the ground of its panel; what is larger than the axis is cut there.
    function height(ratio) { return (ratio > top ? top : ratio) / top * panel_height }
    function bar(m, o, w, s, value) {
        ratio[m, o, w, s] = value; known[m, o, w, s] = 1
        if (value > highest) highest = value
    }
    # What a colour stands for: "2/1" are two workers through the mount in relation to one on the raw image.
    function legend(w) {
        if (w == 1) return "one worker"
        if (w ~ /\//) return substr(w, 1, index(w, "/") - 1) " together / one raw"
        return w " workers / " w " raw"
    }
    function once(list, value) { if (!((list, value) in place)) place[list, value] = ++count[list]; }
    {
        once("medium", $1); medium[place["medium", $1]] = $1
        once("operation", $2); operation[place["operation", $2]] = $2
        once("workers", $3); workers[place["workers", $3]] = $3
        once("size", $4); size[place["size", $4]] = $4
        bar($1, $2, $3, $4, $7)
        if ($3 == 1) one[$1, $2, $4] = $5
        else if (($1, $2, $4) in one) {
            together = $3 "/1"
            once("workers", together); workers[place["workers", together]] = together
            bar($1, $2, together, $4, $6 / one[$1, $2, $4])
        }
    }
    END {
        top = highest > 1 ? (highest > 2 ? 2 : highest * 1.1) : 1.1
        panel_width = 260; panel_height = 150; left = 60; ground = 88; gap_x = 24; gap_y = 62
        width = left + count["operation"] * (panel_width + gap_x)
        tall = ground + count["medium"] * (panel_height + gap_y) + 10
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n",
            width, tall, width, tall
        print "<style>text{font-family:sans-serif;font-size:11px;fill:#222}.h{font-size:14px;font-weight:bold}.t{font-size:12px;font-weight:bold}" \
            ".v{font-size:8px}.axis{stroke:#222}.grid{stroke:#ddd}.goal{stroke:#c33;stroke-dasharray:4 3}" \
            ".w1{fill:#4878a8}.w2{fill:#e0a040}.w3{fill:#70a860}.w4{fill:#999}</style>"
        printf "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width, tall
        text(left, 22, "start", "h", "Throughput through the mount / of the raw image")
        text(left, 40, "start", "", caption "; goals (dashed): 0.5 with one worker, 0.9 with two together")
        x = left
        for (w = 1; w <= count["workers"]; w++) {
            printf "<rect x=\"%d\" y=\"49\" width=\"10\" height=\"10\" class=\"w%d\"/>\n", x, w
            text(x + 14, 58, "start", "", legend(workers[w])); x += 150
        }
        for (m = 1; m <= count["medium"]; m++) for (o = 1; o <= count["operation"]; o++) {
            x0 = left + (o - 1) * (panel_width + gap_x)
            y0 = ground + (m - 1) * (panel_height + gap_y) + panel_height
            text(x0 + panel_width / 2, y0 - panel_height - 8, "middle", "t",
                title(operation[o]) ", " (medium[m] == "ram" ? "image in RAM" : "image on disk"))
            for (g = 0; g <= top; g += 0.25) {
                line(x0, x0 + panel_width, y0 - height(g), g == 0 ? "axis" : "grid")
                if (o == 1) text(x0 - 6, y0 - height(g) + 4, "end", "", sprintf("%.2f", g))
            }
            line(x0, x0 + panel_width, y0 - height(0.5), "goal")
            line(x0, x0 + panel_width, y0 - height(0.9), "goal")
            step = panel_width / count["size"]; wide = step * 0.86 / count["workers"]
            for (s = 1; s <= count["size"]; s++) {
                for (w = 1; w <= count["workers"]; w++) {
                    if (!((medium[m], operation[o], workers[w], size[s]) in known)) continue
                    r = ratio[medium[m], operation[o], workers[w], size[s]]
                    x = x0 + (s - 1) * step + step * 0.07 + (w - 1) * wide
                    printf "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"w%d\"/>\n",
                        x, y0 - height(r), wide - 1, height(r), w
                    text(x + wide / 2, y0 - height(r) - 3, "middle", "v", sprintf("%.2f", r))
                }
                text(x0 + (s - 0.5) * step, y0 + 14, "middle", "", size[s])
            }
        }
        print "</svg>"
    }' "$1"
