// List runs with live status, progress and sparkline. Names are set with textContent alone.

import { element, fillName } from "../dom.js"
import { mount } from "../mounting.js"
import { LiveRows, drawSpark, fillState, runLink, sparkline, stateParts } from "./live.js"

// A policy is known by what it earns; its loss is near 0 whatever that is.
const RESULTS = {
  "val_reward/mean": "mean reward, validation", "reward/mean": "mean reward",
  val_loss: "validation loss", train_loss: "training loss",
}

class LiveRuns extends LiveRows {
  constructor(root) {
    super(root)
    this.rows = new Map()
    this.list = root.appendChild(element("div", "rr-list"))
    this.list.setAttribute("role", "list")
  }

  update(data, trigger) {
    this.follow(data, trigger)
    data.runs.forEach((run, index) => {
      let row = this.rows.get(run.id)
      if (!row) { row = this.makeRow(run); this.rows.set(run.id, row) }
      if (this.list.children[index] !== row.node) this.list.insertBefore(row.node, this.list.children[index] || null)
      fillName(row.name, run.name).setAttribute("aria-label", run.name)
      row.facts.textContent = run.facts
      row.useless.textContent = run.useless
      row.useless.hidden = !run.useless
      row.tags.replaceChildren(...run.tags.map((tag) => element("span", "rr-tag", tag)))
      this.fill(run.id, run)
    })
    for (const [id, row] of this.rows) if (!data.runs.some((run) => run.id === id)) { row.node.remove(); this.rows.delete(id) }
    if (data.prefetch && !window.__roundhousePrefetch) {
      window.__roundhousePrefetch = true
      const link = document.head.appendChild(element("link"))
      Object.assign(link, { rel: "prefetch", as: "script", href: data.prefetch })
    }
  }

  makeRow(run) {
    const node = element("div", "rr-row")
    node.setAttribute("role", "listitem")
    node.dataset.run = run.id
    const title = node.appendChild(element("div", "rr-title"))
    const name = title.appendChild(runLink(run.id, (id) => this.trigger("opened", id)))
    const under = title.appendChild(element("div", "rr-under"))
    const facts = under.appendChild(element("span"))
    const tags = under.appendChild(element("span", "rr-tags"))
    const { svg, path } = sparkline()
    node.appendChild(svg)
    const value = node.appendChild(element("div", "rr-value"))
    const state = stateParts(node.appendChild(element("div", "rr-state")))
    const useless = element("span", "rr-badge rr-useless")
    state.badge.after(useless)
    return { node, name, facts, tags, path, value, state, useless }
  }

  fill(id, state) {
    const row = this.rows.get(id)
    if (!row) return
    fillState(row.state, state, this.word(this.data.runs.find((one) => one.id === id), state.status))
    drawSpark(row.path, state.spark)
    const metric = Object.keys(RESULTS).find((name) => state.last?.[name] !== undefined)
    row.value.replaceChildren(
      ...(metric ? [element("span", "rr-metric", RESULTS[metric]), ` ${state.last[metric].toFixed(3)}`] : []))
  }
}

export default function (component) {
  return mount(component, component.setTriggerValue, { host: ".rr-live", node: "rr-runs", view: LiveRuns })
}
