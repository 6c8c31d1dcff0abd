package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// The pictures' colours, which people who see no red or green can tell apart (Okabe, Ito).
var colours = []string{"#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#999999",
	"#b3de69", "#bc80bd"}

const (
	maxLegend            = 5
	chartLeft, chartTop  = 46, 6
	chartRight, axisTall = 6, 16
)

// drawDashboard returns a page with a chart for each panel, on Grafana's grid of 24
// columns, and its height in pixels.
func drawDashboard(charts []chart) (page string, tall int) {
	var b strings.Builder
	b.WriteString(`<!doctype html><meta charset="utf-8"><title>Outflow</title><style>
body{margin:0;background:#111217;color:#ccccdc;font:11px sans-serif;position:relative}
.panel{position:absolute;box-sizing:border-box;padding:4px 6px;background:#181b1f;border:1px solid #2c3235}
.row{position:absolute;font-weight:bold;font-size:13px;padding-left:4px}
h2{margin:0 0 2px;font-size:12px;font-weight:500;white-space:nowrap;overflow:hidden}
.legend{white-space:nowrap;overflow:hidden}.legend i{display:inline-block;width:10px;height:3px;margin:0 4px 2px 8px}
text{fill:#8e8e99;font:9px sans-serif}</style>`)
	column := float64(width) / 24
	for _, c := range charts {
		at := c.GridPos
		tall = max(tall, (at.Y+at.H)*dashboardUnit)
		box := fmt.Sprintf(`style="left:%.1fpx;top:%dpx;width:%.1fpx;height:%dpx"`,
			float64(at.X)*column+2, at.Y*dashboardUnit+2, float64(at.W)*column-4, at.H*dashboardUnit-4)
		if c.Type == "row" {
			fmt.Fprintf(&b, `<div class="row" %s>%s</div>`, box, html.EscapeString(c.Title))
			continue
		}
		fmt.Fprintf(&b, `<div class="panel" %s><h2>%s</h2>`, box, html.EscapeString(c.Title))
		c.draw(&b, float64(at.W)*column-18, float64(at.H*dashboardUnit-50))
		b.WriteString(`</div>`)
	}
	return b.String(), tall
}

// draw writes the chart's lines, axes and legend.
func (c chart) draw(b *strings.Builder, wide, high float64) {
	if len(c.series) == 0 {
		b.WriteString(`no data`)
		return
	}
	from, to, top := math.Inf(1), math.Inf(-1), 0.0
	for _, s := range c.series {
		from, to = min(from, s.points[0][0]), max(to, s.points[len(s.points)-1][0])
		for _, p := range s.points {
			top = max(top, p[1])
		}
	}
	top = roundUp(top)
	x := func(at float64) float64 { return chartLeft + (at-from)/max(to-from, 1)*(wide-chartLeft-chartRight) }
	y := func(v float64) float64 { return chartTop + (1-v/top)*(high-chartTop-axisTall) }
	fmt.Fprintf(b, `<svg width="%.0f" height="%.0f">`, wide, high)
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(b, `<line x1="%d" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#2c3235"/><text x="%d" y="%.1f" text-anchor="end">%s</text>`,
			chartLeft, wide-chartRight, y(v), y(v), chartLeft-4, y(v)+3, html.EscapeString(c.value(v)))
	}
	for at := math.Ceil(from/60) * 60; at <= to; at += 60 {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(at), high-4,
			time.Unix(int64(at), 0).UTC().Format("15:04"))
	}
	for i, s := range c.series {
		var points strings.Builder
		for _, p := range s.points {
			fmt.Fprintf(&points, "%.1f,%.1f ", x(p[0]), y(p[1]))
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.3"/>`, points.String(),
			colours[i%len(colours)])
	}
	b.WriteString(`</svg><div class="legend">`)
	for i, s := range c.series[:min(len(c.series), maxLegend)] {
		fmt.Fprintf(b, `<i style="background:%s"></i>%s`, colours[i%len(colours)], html.EscapeString(s.name))
	}
	b.WriteString(`</div>`)
}

// roundUp is the end of an axis: 1, 2 or 5 times a power of ten.
func roundUp(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	steps := []float64{1, 2, 5, 10}
	return power * steps[slices.IndexFunc(steps, func(s float64) bool { return s*power >= v*0.999 })]
}

// value writes a figure of the axis in the panel's unit.
func (c chart) value(v float64) string {
	switch unit := c.FieldConfig.Defaults.Unit; {
	case unit == "s" && v >= 60:
		return fmt.Sprintf("%.3g min", v/60)
	case unit == "s" && v < 1 && v > 0:
		return fmt.Sprintf("%.3g ms", v*1000)
	case unit == "s":
		return fmt.Sprintf("%.3g s", v)
	case v >= 1000:
		return fmt.Sprintf("%.3g K", v/1000)
	case unit == "ops":
		return fmt.Sprintf("%.3g/s", v)
	}
	return fmt.Sprintf("%.3g", v)
}
