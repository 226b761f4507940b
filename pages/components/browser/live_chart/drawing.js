// How the curves of a chart are drawn: panels, traces, axes, marks. Knows neither where points come from nor the page around.

const DASHES = ["solid", "dash", "dashdot"]

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

class ChartDrawing {
  layPanels() {
    const names = new Set()
    for (const held of this.runs.values()) for (const name of held.series.keys()) names.add(name)
    const wanted = panelsOf(names)
    for (const spec of wanted) {
      if (this.panels.has(spec.id)) continue
      const box = element("div", spec.wide ? "rh-panel rh-wide" : "rh-panel")
      box.dataset.panel = spec.id
      const title = box.appendChild(element("div", "rh-title"))
      title.appendChild(element("span", "", spec.unit && this.data.runs.every((run) => ["pretrain", "sft"].includes(run.objective)) ? `${spec.title}, ${spec.unit}` : spec.title))
      const legend = title.appendChild(element("span", "rh-legend"))
      const plot = box.appendChild(element("div", "rh-plot"))
      plot.style.height = spec.wide ? "320px" : "180px"
      plot.addEventListener("pointerdown", () => { this.dragging = true }, true)
      this.panels.set(spec.id, { spec, box, legend, plot, yRange: null })
    }
    const order = []
    const groups = new Set(wanted.map((spec) => spec.group || ""))
    let group = ""
    for (const spec of wanted) {
      if ((spec.group || "") !== group && groups.size > 1) order.push(this.heading(spec.group))
      group = spec.group || ""
      order.push(this.panels.get(spec.id).box)
    }
    order.forEach((node, index) => { if (this.grid.children[index] !== node) this.grid.insertBefore(node, this.grid.children[index] || null) })
  }

  heading(group) {
    this.headings ||= new Map()
    if (!this.headings.has(group)) this.headings.set(group, element("div", "rh-group", group))
    return this.headings.get(group)
  }

  draw(all = false, dirty = null) {
    if (!this.Plotly || this.dead) return
    if (this.dragging) { this.missed = true; return }
    if (this.missed) { all = true; this.missed = false }
    const started = performance.now()
    this.layPanels()
    this.chooseTimeUnit()
    const stale = [...this.panels.values()].filter((panel) => all || !dirty || panel.spec.metrics.some((name) => dirty.has(name)))
    const later = stale.filter((panel, index) => index && !panel.drawn) // the first curve is on the screen before the others are made
    for (const panel of stale) if (!later.includes(panel)) this.drawPanel(panel)
    if (later.length) setTimeout(() => { if (!this.dead) later.forEach((panel) => this.drawPanel(panel)) }, 30)
    this.drawMs = performance.now() - started
  }

  // One unit of time for all runs, so that they can lie over each other.
  chooseTimeUnit() {
    let longest = 0
    for (const held of this.runs.values()) for (const series of held.series.values()) longest = Math.max(longest, series.times[series.times.length - 1] || 0)
    this.time = longest < 300 ? [1, "seconds"] : longest < 3 * 3600 ? [60, "minutes"] : [3600, "hours"]
    this.tell()
  }

  // Say why there is nothing to see, or of which runs nothing can be shown.
  tell() {
    const lacking = this.time ? this.data.runs.filter((run) => !this.placesOf(run, { steps: [], times: [] })) : []
    const what = { time: "when its points were written", tokens: "how many tokens a step sees", flops: "how many operations a step takes" }
    this.say(this.waiting || (lacking.length ? `Not shown: of ${lacking.map((run) => run.name).join(", ")} it is not known ${what[this.settings.x]}.` : ""))
  }

  // Where points lie across; null if that is not known of a run.
  placesOf(run, series) {
    const { x } = this.settings
    if (x === "time") return run.has_time ? series.times.map((s) => s / this.time[0]) : null
    const factor = x === "tokens" ? run.tokens_per_step : x === "flops" ? run.flops_per_step : 1
    return factor ? (factor === 1 ? series.steps : series.steps.map((s) => s * factor)) : null
  }

  drawPanel(panel) {
    const { spec, plot } = panel
    const many = this.data.runs.length > 1
    const traces = []
    panel.legend.replaceChildren()
    this.data.runs.forEach((run, runIndex) => {
      const held = this.runs.get(run.id)
      spec.metrics.forEach((name, metricIndex) => {
        const series = held.series.get(name)
        if (!series || !series.steps.length || this.hidden.has(run.id)) return
        const color = this.theme.colors[(many ? runIndex : metricIndex) % this.theme.colors.length]
        const x = this.placesOf(run, series)
        if (!x) return
        const dash = DASHES[many ? Math.floor(runIndex / this.theme.colors.length) % DASHES.length : 0]
        traces.push(...this.tracesOf(series, { run, name, spec, color, many, x, dash }))
        if (!many) this.addLegend(panel, name, color, series)
      })
    })
    const layout = this.layoutOf(panel)
    if (!panel.drawn) {
      panel.drawn = true
      this.Plotly.newPlot(plot, traces, layout, { displayModeBar: false, responsive: false, doubleClick: "autosize", showTips: false })
      plot.on("plotly_relayout", (event) => this.onZoom(panel, event))
      plot.on("plotly_click", (event) => this.samples.jump(event.points[0].customdata))
    } else this.Plotly.react(plot, traces, layout)
  }

  tracesOf(series, { run, name, spec, color, many, x, dash }) {
    const isVal = name.startsWith("val_")
    const label = many ? (spec.metrics.length > 1 ? `${run.name} · ${LABELS[name] || name}` : run.name) : LABELS[name] || name.replaceAll("_", " ")
    const value = `%{y${HOVER[spec.format] || `:${spec.format}`}}<extra>${escapeLabel(label)}</extra>`
    const smoothing = isVal || spec.exact ? 0 : this.settings.smoothing
    const base = { x, type: "scatter", connectgaps: true, customdata: series.steps }
    const line = { color, width: 1.8, dash: many && isVal ? "dot" : dash }
    if (!smoothing) {
      const marker = { color, size: 5 }
      return [{ ...base, y: series.values, mode: (isVal && series.values.length < 200) || series.values.length === 1 ? "lines+markers" : "lines", line, marker, hovertemplate: value }]
    }
    const reach = Math.max(1, (run.max_steps || series.steps[series.steps.length - 1]) / 300)
    return [
      { ...base, y: series.values, mode: "lines", line: { color, width: 1 }, opacity: 0.22, hoverinfo: "skip" },
      { ...base, y: smooth(series, smoothing, reach), mode: "lines", line, hovertemplate: value },
    ]
  }

  // The range of the middle 98 % of what a panel shows, with a twentieth of it around; undefined where nothing is cut off.
  middleOf(panel, log) {
    if (!this.settings.clip || panel.spec.exact) return undefined
    let [low, high] = [Infinity, -Infinity]
    for (const run of this.data.runs) {
      if (this.hidden.has(run.id)) continue
      for (const name of panel.spec.metrics) {
        const series = this.runs.get(run.id).series.get(name)
        if (!series || series.values.length < 20) continue
        const [from, to] = series.clip || percentiles(series.values)
        low = Math.min(low, from)
        high = Math.max(high, to)
      }
    }
    if (log) [low, high] = [Math.log10(low), Math.log10(high)]
    if (!(Number.isFinite(low) && Number.isFinite(high) && high > low)) return undefined
    const around = (high - low) / 20
    return [low - around, high + around]
  }

  // The step whose samples are shown, and what the diagnosis points at, as lines across the panels.
  shapes() {
    const run = this.data.runs[0]
    const marks = this.data.runs.length === 1 ? (this.data.marks || []).map((mark) => ({ step: mark.step, color: this.theme.warn, dash: "dash" })) : []
    if (this.marked !== undefined && this.samples.all.length > 1) marks.push({ step: this.marked, color: this.theme.text, dash: "dot" })
    return marks.flatMap(({ step, color, dash }) => {
      const x = this.placeOfStep(run, step)
      return x === null ? [] : [{ type: "line", xref: "x", yref: "paper", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: 1, dash }, opacity: 0.7 }]
    })
  }

  placeOfStep(run, step) {
    if (this.settings.x !== "time") return this.placesOf(run, { steps: [step], times: [] })?.[0] ?? null
    const series = this.runs.get(run.id).series.get("train_loss")
    if (!series || !run.has_time) return null
    const index = series.steps.findIndex((one) => one >= step)
    return index < 0 ? null : series.times[index] / this.time[0]
  }

  markStep(step) {
    if (this.marked === step) return
    this.marked = step
    this.draw(true)
  }

  addLegend(panel, name, color, series) {
    const item = panel.legend.appendChild(element("span", "rh-key"))
    if (panel.spec.metrics.length > 1) {
      const mark = item.appendChild(element("i"))
      mark.style.background = color
      item.appendChild(document.createTextNode(`${LABELS[name] || name} `))
    }
    item.appendChild(element("b", "", number(series.values[series.values.length - 1], panel.spec.format)))
  }

  layoutOf(panel) {
    const { text, line, soft, font } = this.theme
    const log = this.settings.logy && panel.spec.log
    const axis = { gridcolor: line, linecolor: line, zeroline: false, color: text, tickfont: { size: 11 }, automargin: true }
    const titles = { step: "step", time: this.time[1], tokens: "tokens", flops: "floating-point operations" }
    const fixed = (range) => (range ? { range: [...range], autorange: false } : { autorange: true })
    const across = { type: this.settings.logx ? "log" : "linear", exponentformat: this.settings.x === "flops" ? "power" : "SI" }
    this.revision += 1
    return {
      height: panel.spec.wide ? 320 : 180,
      width: panel.plot.clientWidth || undefined,
      margin: { l: 48, r: 10, t: 8, b: panel.spec.wide ? 40 : 28 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: font, size: 12, color: text },
      showlegend: false, hovermode: "x unified", dragmode: "zoom", datarevision: this.revision,
      hoverlabel: { bgcolor: soft, bordercolor: line, font: { family: font, size: 12, color: text } },
      shapes: this.shapes(),
      xaxis: { ...axis, ...across, ...fixed(this.xRange), title: panel.spec.wide ? { text: titles[this.settings.x], font: { size: 11 }, standoff: 6 } : undefined, hoverformat: ",.6~g", spikecolor: line, spikethickness: 1, nticks: panel.spec.wide ? undefined : 5 },
      yaxis: { ...axis, ...TICKS[panel.spec.format], ...fixed(panel.yRange || this.middleOf(panel, log)), type: log ? "log" : "linear", nticks: panel.spec.wide ? undefined : 5, exponentformat: panel.spec.exponent || "SI", rangemode: panel.spec.exponent ? "tozero" : "normal" },
    }
  }

  onZoom(panel, event) {
    if (event["xaxis.autorange"]) this.xRange = null
    else if ("xaxis.range[0]" in event) this.xRange = [event["xaxis.range[0]"], event["xaxis.range[1]"]]
    else if (event["xaxis.range"]) this.xRange = [...event["xaxis.range"]]
    else if (!("yaxis.range[0]" in event) && !event["yaxis.autorange"]) return
    if (event["yaxis.autorange"]) panel.yRange = null
    else if ("yaxis.range[0]" in event) panel.yRange = [event["yaxis.range[0]"], event["yaxis.range[1]"]]
    this.dragging = false
    for (const other of this.panels.values()) if (other !== panel) this.drawPanel(other)
  }

  resize() {
    clearTimeout(this.resizing)
    this.resizing = setTimeout(() => this.draw(true), 80)
  }
}
