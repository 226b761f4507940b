// What lists and tables of runs share: sparklines, and rows that follow their runs by polling.

import { element, svgElement } from "../dom.js"
import { opensHere } from "../links.js"
import { rerunOnce } from "../mounting.js"

const POLL_MS = 1000
const IDLE_MS = 4000

export function sparkline() {
  const svg = svgElement("svg", { viewBox: "0 0 100 26", preserveAspectRatio: "none", class: "rr-spark", "aria-hidden": "true" })
  const path = svg.appendChild(svgElement("polyline", { fill: "none", "vector-effect": "non-scaling-stroke" }))
  return { svg, path }
}

export function drawSpark(path, values) {
  if (!values || values.length < 2) { path.setAttribute("points", ""); return }
  const low = Math.min(...values)
  const high = Math.max(...values)
  const span = high - low || 1
  path.setAttribute("points", values.map((v, i) => `${((100 * i) / (values.length - 1)).toFixed(2)},${(24 - (22 * (v - low)) / span).toFixed(2)}`).join(" "))
}

// A status badge, its line and its progress bar.
export function stateParts(node) {
  const top = node.appendChild(element("div", "rr-top"))
  const badge = top.appendChild(element("span", "rr-badge"))
  const line = top.appendChild(element("span", "rr-line"))
  const track = node.appendChild(element("div", "rr-track"))
  return { badge, line, track, bar: track.appendChild(element("div", "rr-bar")) }
}

export function fillState(parts, state, word) {
  parts.badge.textContent = word
  parts.badge.dataset.status = state.status
  parts.line.textContent = state.line
  parts.line.title = state.line
  parts.bar.style.width = `${Math.round(1000 * (state.share || 0)) / 10}%`
  parts.bar.dataset.status = state.status
  parts.track.style.display = ["running", "cancelling"].includes(state.status) ? "block" : "none"
}

// A link that opens its run in place; with a key held, or the middle button, as any link.
export function runLink(id, open) {
  const link = element("a", "rr-name")
  link.href = `/run?run=${encodeURIComponent(id)}`
  link.onclick = (event) => { if (opensHere(event)) open(id) }
  return link
}

// Base of a view of runs: asks for their states as long as it is on the page, once a second while one is active.
// `fill(id, state)` draws a state; `data.runs` are {id, status}.
export class LiveRows {
  constructor(root) {
    this.root = root
    this.rerun = rerunOnce((change) => this.trigger("changed", change))
    this.onVisible = () => { if (!document.hidden) this.poll() }
    document.addEventListener("visibilitychange", this.onVisible)
  }

  follow(data, trigger) {
    this.data = data
    this.trigger = trigger
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.poll(), POLL_MS)
  }

  destroy() {
    this.dead = true
    clearTimeout(this.timer)
    document.removeEventListener("visibilitychange", this.onVisible)
    this.root.remove()
  }

  word(run, status) {
    return run?.imported ? this.data.words.imported : this.data.words.status[status] || status
  }

  async poll() {
    clearTimeout(this.timer)
    if (this.dead || this.polling) return
    this.polling = true
    const asked = this.data
    let wait = IDLE_MS
    try {
      const response = await fetch(`${asked.url}?${new URLSearchParams({ token: asked.token })}`, { credentials: "same-origin", cache: "no-store" })
      if (response.status === 403 || response.redirected) this.rerun("expired")
      else if (response.ok) {
        const answer = await response.json()
        if (asked === this.data) this.take(answer)
        if (answer.active.length) wait = POLL_MS
      }
    } catch { /* the server is away: the rows stay as they are until it answers */ }
    this.polling = false
    if (!this.dead) this.timer = setTimeout(() => this.poll(), document.hidden ? 10 * POLL_MS : wait)
  }

  /** Show a run's state; each list has its own way. @param {string} id @param {any} state */
  fill(id, state) {
    throw new Error(`${id} (${state.status}) has no row`)
  }

  take(answer) {
    for (const run of this.data.runs) {
      const state = answer.runs[run.id]
      if (!state) continue
      this.fill(run.id, state)
      if (state.status !== run.status) this.rerun(`${run.id}:${state.status}`)
    }
    const active = answer.active.join()
    if (typeof this.data.active === "string" && active !== this.data.active) this.rerun(`active:${active}`)
  }
}
