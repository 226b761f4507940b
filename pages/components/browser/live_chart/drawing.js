// Draw the curves of a chart: panels, legends, traces, axes, marks. Knows neither where points come from nor the page around.

import { element, fillName, svgElement } from "../dom.js"
import { HOVER, LABELS, TICKS, arrange, escapeLabel, inWords, moved, number, panelsOf } from "./panels.js"

// Of several runs a colour is a run and a dash a split: [train, validation], other dashes once the colours are used up.
const DASHES = [["solid", "dot"], ["dash", "dashdot"]]
const STROKES = { solid: "", dot: "2 3", dash: "8 4", dashdot: "8 3 2 3" }

// Exponential average whose reach is a share of the run's length in steps, so that it does not depend on how many points are drawn.
function smooth(series, amount, reach) {
  const { steps, values } = series
  let cache = series.smoothed
  if (!cache || cache.amount !== amount) cache = series.smoothed = { amount, sum: 0, weight: 0, out: [] }
  for (let i = cache.out.length; i < values.length; i += 1) {
    const gap = i ? (steps[i] - steps[i - 1]) / reach : 1
    const decay = Math.pow(amount, Math.max(gap, 1e-3))
    cache.sum = decay * cache.sum + (1 - decay) * values[i]
    cache.weight = decay * cache.weight + (1 - decay)
    cache.out.push(cache.sum / cache.weight)
  }
  return cache.out
}

function percentiles(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))]
  return [at(0.01), at(0.99)]
}

function layPanels(chart) {
  const names = new Set()
  for (const held of chart.runs.values()) for (const name of held.series.keys()) names.add(name)
  chart.known = arrange(panelsOf(names), chart.settings.panels)
  const shown = chart.known.filter((spec) => !spec.hidden)
  for (const [id, panel] of chart.panels) {
    if (shown.some((spec) => spec.id === id)) continue
    chart.Plotly.purge(panel.plot)
    panel.box.remove()
    chart.panels.delete(id)
  }
  for (const spec of shown) {
    if (!chart.panels.has(spec.id)) chart.panels.set(spec.id, makePanel(chart, spec))
    const panel = chart.panels.get(spec.id)
    panel.spec = spec
    panel.box.classList.toggle("rh-wide", Boolean(spec.wide))
    panel.plot.style.height = spec.wide ? "320px" : "180px"
    panel.enlarge.setAttribute("aria-pressed", String(Boolean(spec.wide)))
    panel.enlarge.title = spec.wide ? "Make smaller" : "Enlarge"
    panel.enlarge.setAttribute("aria-label", `${panel.enlarge.title}: ${spec.title}`)
  }
  const order = []
  const groups = shown.map((spec) => spec.group || "")
  const heads = groups.filter((group, place) => group !== groups[place - 1])
  const areWhole = new Set(heads).size === heads.length // not once a panel was moved into another group
  shown.forEach((spec, place) => {
    if (areWhole && heads.length > 1 && groups[place] && groups[place] !== groups[place - 1]) order.push(heading(chart, groups[place]))
    order.push(chart.panels.get(spec.id).box)
  })
  for (const [group, node] of chart.headings || []) if (!order.includes(node)) { node.remove(); chart.headings.delete(group) }
  order.forEach((node, index) => { if (chart.grid.children[index] !== node) chart.grid.insertBefore(node, chart.grid.children[index] || null) })
  chart.chooser?.fill()
}

function makePanel(chart, spec) {
  const box = element("div", "rh-panel")
  box.dataset.panel = spec.id
  const title = box.appendChild(element("div", "rh-title"))
  const name = title.appendChild(element("span", "rh-panel-name"))
  const legend = title.appendChild(element("span", "rh-legend"))
  const enlarge = box.appendChild(element("button", "rh-enlarge"))
  enlarge.append(icon("M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"))
  enlarge.onclick = () => rearrange(chart, (panel) => (panel.id === spec.id ? { ...panel, wide: !panel.wide } : panel))
  const plot = box.appendChild(element("div", "rh-plot"))
  plot.addEventListener("pointerdown", () => { chart.dragging = true }, true)
  plot.addEventListener("mouseleave", () => leave(chart))
  name.draggable = true
  name.title = "Drag to move the panel"
  name.addEventListener("dragstart", (event) => { chart.moving = spec.id; event.dataTransfer.setData("text/plain", spec.title) })
  name.addEventListener("dragend", () => { chart.moving = null })
  box.addEventListener("dragover", (event) => { if (chart.moving) event.preventDefault() })
  box.addEventListener("drop", (event) => {
    if (!chart.moving) return
    event.preventDefault()
    movePanel(chart, chart.moving, chart.known.findIndex((one) => one.id === spec.id))
  })
  return { spec, box, name, legend, plot, enlarge, yRange: null }
}

function icon(path) {
  const drawing = svgElement("svg", { viewBox: "0 0 24 24", width: 14, height: 14, "aria-hidden": "true" })
  drawing.appendChild(svgElement("path", { d: path, fill: "none", stroke: "currentColor", "stroke-width": 2 }))
  return drawing
}

// Change what is known of the panels; those of other runs stay as they were arranged.
export function rearrange(chart, change, panels = chart.known) {
  const here = new Set(panels.map((panel) => panel.id))
  const others = chart.settings.panels.filter((panel) => !here.has(panel.id))
  chart.set("panels", [...panels.map(change).map(({ id, wide, hidden }) => ({ id, wide: Boolean(wide), hidden: Boolean(hidden) })), ...others])
}

// Move a panel to a place among all, shown or not.
export function movePanel(chart, id, to) {
  const ids = moved(chart.known.map((panel) => panel.id), id, to)
  rearrange(chart, (panel) => panel, ids.map((one) => chart.known.find((panel) => panel.id === one)))
}

// One crosshair: what the pointer is at in one panel is marked and read in all others.
function point(chart, panel, event) {
  if (!panel.plot.matches(":hover")) return // another panel's, which this one was told
  const x = event.points[0].x
  for (const other of chart.panels.values()) {
    if (other !== panel && other.drawn) chart.Plotly.Fx.hover(other.plot, { xval: x, yval: 0 }, "xy")
  }
}

function leave(chart) {
  for (const panel of chart.panels.values()) if (panel.drawn) chart.Plotly.Fx.unhover(panel.plot)
}

function heading(chart, group) {
  chart.headings ||= new Map()
  if (!chart.headings.has(group)) chart.headings.set(group, element("div", "rh-group", group))
  return chart.headings.get(group)
}

export function draw(chart, all = false, dirty = null) {
  if (!chart.Plotly || chart.dead) return
  if (chart.dragging) { chart.missed = true; return }
  if (chart.missed) { all = true; chart.missed = false }
  const started = performance.now()
  layPanels(chart)
  chooseTimeUnit(chart)
  const stale = [...chart.panels.values()].filter((panel) => all || !dirty || panel.spec.metrics.some((name) => dirty.has(name)))
  const later = stale.filter((panel, index) => index && !panel.drawn) // the first curve is on the screen before the others are made
  for (const panel of stale) if (!later.includes(panel)) drawPanel(chart, panel)
  if (later.length) setTimeout(() => { if (!chart.dead) later.forEach((panel) => drawPanel(chart, panel)) }, 30)
  chart.drawMs = performance.now() - started
}

// One unit of time for all runs, so that they can lie over each other.
function chooseTimeUnit(chart) {
  let longest = 0
  for (const held of chart.runs.values()) for (const series of held.series.values()) longest = Math.max(longest, series.times[series.times.length - 1] || 0)
  chart.time = longest < 300 ? [1, "seconds"] : longest < 3 * 3600 ? [60, "minutes"] : [3600, "hours"]
  tell(chart)
}

// Say why there is nothing to see, or of which runs nothing can be shown.
export function tell(chart) {
  const lacking = chart.time ? chart.data.runs.filter((run) => !placesOf(chart, run, { steps: [], times: [] })) : []
  const what = { time: "when its points were written", tokens: "how many tokens a step sees", flops: "how many operations a step takes" }
  say(chart, chart.waiting || (lacking.length ? `Not shown: of ${lacking.map((run) => run.label).join(", ")} it is not known ${what[chart.settings.x]}.` : ""))
}

// Places of points across; null if that is not known of a run.
function placesOf(chart, run, series) {
  const { x } = chart.settings
  if (x === "time") return run.has_time ? series.times.map((s) => s / chart.time[0]) : null
  const factor = x === "tokens" ? run.tokens_per_step : x === "flops" ? run.flops_per_step : 1
  return factor ? (factor === 1 ? series.steps : series.steps.map((s) => s * factor)) : null
}

export function drawPanel(chart, panel) {
  const { spec, plot } = panel
  const many = chart.data.runs.length > 1
  const inNats = spec.unit && chart.data.runs.every((run) => ["pretrain", "sft"].includes(run.objective))
  panel.name.textContent = inNats ? `${spec.title}, ${spec.unit}` : spec.title
  const lines = linesOf(chart, spec)
  const traces = lines.flatMap((line) => tracesOf(chart, line, { spec, many }))
  panel.legend.replaceChildren(...(many ? legendOfRuns(chart, spec, lines) : legendOfRun(chart, spec, lines)))
  const layout = layoutOf(chart, panel, lines)
  if (!panel.drawn) {
    panel.drawn = true
    chart.Plotly.newPlot(plot, traces, layout, { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false })
    plot.on("plotly_relayout", (event) => onZoom(chart, panel, event))
    plot.on("plotly_hover", (event) => point(chart, panel, event))
    plot.on("plotly_click", (event) => chart.samples.jump(event.points[0].customdata))
  } else chart.Plotly.react(plot, traces, layout)
}

// What a panel shows, a line for each run and metric: {run, name, series, x, color, dash}.
export function linesOf(chart, spec) {
  const many = chart.data.runs.length > 1
  const { colors } = chart.theme
  const lines = []
  chart.data.runs.forEach((run, runIndex) => {
    if (chart.hidden.has(run.id)) return
    spec.metrics.forEach((name, metricIndex) => {
      if (name === "val_loss" && run.objective === "grpo") return // minus its mean reward, which has a panel
      const series = chart.runs.get(run.id).series.get(name)
      const x = series && series.steps.length ? placesOf(chart, run, series) : null
      if (!x) return
      const color = colors[(many ? runIndex : metricIndex) % colors.length]
      const dashes = DASHES[many ? Math.floor(runIndex / colors.length) % DASHES.length : 0]
      lines.push({ run, name, series, x, color, dash: many ? dashes[isSecond(name) ? 1 : 0] : "solid" })
    })
  })
  return lines
}

// Whether a metric is the second of a pair that a run has one colour for.
function isSecond(name) {
  return (name.startsWith("val_") && name !== "val_rewards/chosen") || name === "rewards/rejected"
}

function labelOf(name) {
  return LABELS[name] || inWords(name)
}

function tracesOf(chart, { run, name, series, x, color, dash }, { spec, many }) {
  const isVal = name.startsWith("val_")
  const isOne = spec.metrics.length === 1
  const label = many ? (isOne ? run.label : `${run.label} · ${labelOf(name)}`) : isOne ? spec.title : labelOf(name)
  const value = `%{y${HOVER[spec.format] || `:${spec.format}`}}<extra>${escapeLabel(label)}</extra>`
  const smoothing = isVal || spec.exact || series.values.length === 1 ? 0 : chart.settings.smoothing  // one point is a dot
  const base = { x, type: "scatter", connectgaps: true, customdata: series.steps }
  const line = { color, width: 1.8, dash }
  if (!smoothing) {
    const marker = { color, size: series.values.length === 1 ? 8 : 5 }
    return [{ ...base, y: series.values, mode: (isVal && series.values.length < 200) || series.values.length === 1 ? "lines+markers" : "lines", line, marker, hovertemplate: value }]
  }
  const reach = Math.max(1, (run.max_steps || series.steps[series.steps.length - 1]) / 300)
  return [
    { ...base, y: series.values, mode: "lines", line: { color, width: 1 }, opacity: 0.22, hoverinfo: "skip" },
    { ...base, y: smooth(series, smoothing, reach), mode: "lines", line, hovertemplate: value },
  ]
}

// The range of the middle 98 % of what a panel shows, with a twentieth of it around; undefined where nothing is cut off.
function middleOf(chart, panel, log) {
  if (!chart.settings.clip || panel.spec.exact) return undefined
  let [low, high] = [Infinity, -Infinity]
  for (const run of chart.data.runs) {
    if (chart.hidden.has(run.id)) continue
    for (const name of panel.spec.metrics) {
      const series = chart.runs.get(run.id).series.get(name)
      if (!series || series.values.length < 20) continue
      const [from, to] = series.clip || percentiles(series.values)
      low = Math.min(low, from)
      high = Math.max(high, to)
    }
  }
  if (log) [low, high] = [Math.log10(low), Math.log10(high)]
  if (!(Number.isFinite(low) && Number.isFinite(high) && high > low)) return undefined
  const margin = (high - low) / 20
  return [low - margin, high + margin]
}

// A range around values that are all the same, such as a first point: it has no size of its own, and ticks at plotly.js's would all read alike.
export function around(values, { log = false, format = "" } = {}) {
  const [low, high] = [Math.min(...values), Math.max(...values)]
  if (low !== high || !Number.isFinite(low)) return undefined
  if (log) return low > 0 ? [Math.log10(low / 1.2), Math.log10(low * 1.2)] : undefined
  const reach = format === "%" ? 0.05 : Math.abs(low) / 10 || 1
  return [low >= 0 ? Math.max(0, low - reach) : low - reach, low + reach]
}

// The step whose samples are shown, and what the diagnosis points at, as lines across the panels.
function shapes(chart) {
  const run = chart.data.runs[0]
  const marks = chart.data.runs.length === 1 ? (chart.data.marks || []).map((mark) => ({ step: mark.step, color: chart.theme.warn, dash: "dash" })) : []
  if (chart.marked !== undefined && chart.samples.all.length > 1) marks.push({ step: chart.marked, color: chart.theme.text, dash: "dot" })
  return marks.flatMap(({ step, color, dash }) => {
    const x = placeOfStep(chart, run, step)
    return x === null ? [] : [{ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: 1, dash }, opacity: 0.7 }]
  })
}

function placeOfStep(chart, run, step) {
  if (chart.settings.x !== "time") return placesOf(chart, run, { steps: [step], times: [] })?.[0] ?? null
  const series = chart.runs.get(run.id).series.get("train_loss")
  if (!series || !run.has_time) return null
  const index = series.steps.findIndex((one) => one >= step)
  return index < 0 ? null : series.times[index] / chart.time[0]
}

export function markStep(chart, step) {
  if (chart.marked === step) return
  chart.marked = step
  draw(chart, true)
}

// A piece of the line itself, so that colour and dash can be told in the legend.
function lineMark(color, dash) {
  const mark = svgElement("svg", { class: "rh-mark", viewBox: "0 0 24 6", width: 24, height: 6, "aria-hidden": "true" })
  mark.appendChild(svgElement("line", { x1: 0, x2: 24, y1: 3, y2: 3, stroke: color, "stroke-width": 2.4, "stroke-dasharray": STROKES[dash] }))
  return mark
}

// Figures of one run: the newest value of each line, and beside it what the run's report says of the whole.
function legendOfRun(chart, spec, lines) {
  return lines.map(({ run, name, series, color, dash }) => {
    const item = element("span", "rh-key")
    if (spec.metrics.length > 1) item.append(lineMark(color, dash), ` ${labelOf(name)} `)
    const state = chart.runs.get(run.id).state || run
    const whole = state.status === run.status && run.figures[name]
    item.appendChild(element("b", "", whole || number(series.values[series.values.length - 1], spec.format)))
    return item
  })
}

// Of several runs: under the wide panel's title each run by name with its lines, in a small one the two dashes of a pair.
function legendOfRuns(chart, spec, lines) {
  if (!spec.wide) return spec.metrics.length > 1 ? legendOfDashes(chart, lines) : []
  return chart.data.runs.flatMap((run) => {
    const own = lines.filter((line) => line.run === run)
    if (!own.length) return []
    const item = element("span", "rh-key rh-of-run")
    fillName(item.appendChild(element("span", "rh-whose-key")), run.label, run.name)
    for (const { name, series, color, dash } of own) {
      const part = item.appendChild(element("span", "rh-part"))
      part.append(lineMark(color, dash), ` ${labelOf(name)} `)
      part.appendChild(element("b", "", number(series.values[series.values.length - 1], spec.format)))
    }
    return [item]
  })
}

function legendOfDashes(chart, lines) {
  const labels = new Map(lines.map(({ name, dash }) => [labelOf(name), dash]))
  return [...labels].map(([label, dash]) => {
    const item = element("span", "rh-key")
    item.append(lineMark(chart.theme.text, dash), ` ${label}`)
    return item
  })
}

function layoutOf(chart, panel, lines) {
  const { text, line, soft, font } = chart.theme
  const log = chart.settings.logy && panel.spec.log
  const axis = { gridcolor: line, linecolor: line, zeroline: false, color: text, tickfont: { size: 11 }, automargin: true }
  const titles = { step: "step", time: chart.time[1], tokens: "tokens", flops: "floating-point operations" }
  const fixed = (range) => (range ? { range: [...range], autorange: false } : { autorange: true })
  const across = { type: chart.settings.logx ? "log" : "linear", exponentformat: chart.settings.x === "flops" ? "power" : "SI" }
  const shown = lines.flatMap(({ series }) => (series.values.length < 20 ? series.values : [NaN]))
  const level = shown.length ? around(shown, { log, format: panel.spec.format }) : undefined
  const places = lines.flatMap(({ x }) => [x[0], x[x.length - 1]])
  const alone = places.length && !chart.settings.logx && Math.min(...places) === Math.max(...places) ? [0, 2 * places[0] || 1] : undefined
  chart.revision += 1
  return {
    height: panel.spec.wide ? 320 : 180,
    width: panel.plot.clientWidth || undefined,
    margin: { l: 48, r: 10, t: 8, b: panel.spec.wide ? 40 : 28 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: font, size: 12, color: text },
    showlegend: false, hovermode: "x unified", dragmode: "zoom", datarevision: chart.revision,
    hoverlabel: { bgcolor: soft, bordercolor: line, font: { family: font, size: 12, color: text } },
    shapes: shapes(chart),
    xaxis: { ...axis, ...across, ...fixed(chart.xRange || alone), title: panel.spec.wide ? { text: titles[chart.settings.x], font: { size: 11 }, standoff: 6 } : undefined, hoverformat: ",.6~g", spikecolor: line, spikethickness: 1, nticks: panel.spec.wide ? undefined : 5 },
    yaxis: { ...axis, ...TICKS[panel.spec.format], ...fixed(panel.yRange || middleOf(chart, panel, log) || level), type: log ? "log" : "linear", nticks: panel.spec.wide ? undefined : 5, exponentformat: panel.spec.exponent || "SI", rangemode: panel.spec.exponent ? "tozero" : "normal" },
  }
}

function onZoom(chart, panel, event) {
  if (event["xaxis.autorange"]) chart.xRange = null
  else if ("xaxis.range[0]" in event) chart.xRange = [event["xaxis.range[0]"], event["xaxis.range[1]"]]
  else if (event["xaxis.range"]) chart.xRange = [...event["xaxis.range"]]
  else if (!("yaxis.range[0]" in event) && !event["yaxis.autorange"]) return
  if (event["yaxis.autorange"]) panel.yRange = null
  else if ("yaxis.range[0]" in event) panel.yRange = [event["yaxis.range[0]"], event["yaxis.range[1]"]]
  chart.dragging = false
  for (const other of chart.panels.values()) if (other !== panel) drawPanel(chart, other)
}

export function resize(chart) {
  clearTimeout(chart.resizing)
  chart.resizing = setTimeout(() => draw(chart, true), 80)
}

export function say(chart, text) {
  chart.note.textContent = text
  chart.note.style.display = text ? "block" : "none"
}
