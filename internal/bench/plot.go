package main

import (
	"fmt"
	"math"
	"strings"
)

// plotFile is the name of the plot beside the document.
const plotFile = "policy-curve.svg"

// Places on the plot, in its units.
const (
	plotWidth, plotHeight = 640, 340
	plotLeft, plotRight   = 60, 450
	plotTop, plotBottom   = 20, 290
)

// line is one curve of the plot: a peer and a kind of rules.
type line struct {
	peer     string
	stateful bool
	colour   string
}

// name is how the legend calls it.
func (l line) name() string {
	kind := "stateless"
	if l.stateful {
		kind = "stateful"
	}
	peer := l.peer
	if peer == filtered {
		peer = "nftables"
	}
	return peer + ", " + kind
}

// plotLines are the curves; colours that the colour-blind tell apart (Okabe and Ito).
var plotLines = []line{
	{weft, true, "#0072b2"}, {weft, false, "#56b4e9"}, {filtered, true, "#d55e00"}, {filtered, false, "#e69f00"},
}

// plot draws the medians of a measure over the number of rules: from none, evenly, to ten times as many with each step.
func plot(r result) string {
	top := 0.0
	for _, values := range r.Values {
		top = max(top, spreadOf(values).Median)
	}
	step := niceStep(top / 4)
	top = step * math.Ceil(top/step)
	y := func(v float64) float64 { return plotBottom - v/top*(plotBottom-plotTop) }
	sizes := append([]int{0}, curveSize...)
	x := func(i int) float64 { return plotLeft + float64(i)*(plotRight-plotLeft)/float64(len(sizes)-1) }
	var b strings.Builder
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", r.Text)
	for v := 0.0; v <= top; v += step {
		fmt.Fprintf(&b, "<path d=\"M%d %.0fH%d\" stroke=\"#ddd\"/><text x=\"%d\" y=\"%.0f\" text-anchor=\"end\">%.0f</text>\n",
			plotLeft, y(v), plotRight, plotLeft-6, y(v)+4, v/1e3)
	}
	for i, n := range sizes {
		fmt.Fprintf(&b, "<text x=\"%.0f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x(i), plotBottom+16, thousands(n))
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">rules in each direction of each port; kpps delivered</text>\n", (plotLeft+plotRight)/2, plotBottom+36)
	for at, l := range plotLines {
		var points []string
		for i, n := range sizes {
			rules := ruleset{n, l.stateful}
			if n == 0 {
				rules = noRules
			}
			if v := r.Values[entry{l.peer, rules}.name()]; len(v) > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(i), y(spreadOf(v).Median)))
			}
		}
		fmt.Fprintf(&b, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"/>\n", strings.Join(points, " "), l.colour)
		fmt.Fprintf(&b, "<path d=\"M%d %dh20\" stroke=\"%s\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
			plotRight+20, plotTop+20*at+10, l.colour, plotRight+46, plotTop+20*at+14, l.name())
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// niceStep is the next of 1, 2 and 5 times a power of ten.
func niceStep(at float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(at)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= at {
			return n * power
		}
	}
	return 10 * power
}
