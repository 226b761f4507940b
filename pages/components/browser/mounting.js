// What live components share: one view a host that outlives script runs, and one script run a change.

import { element } from "./dom.js"

// Show a component's data in the view of its host, made at the first script run; returns what takes it down.
export function mount({ data, parentElement }, send, { host: selector, node, view: View }) {
  const host = parentElement.querySelector(selector)
  if (!host.view) host.view = new View(host.appendChild(element("div", node)))
  host.view.update(data, send)
  return () => {
    host.view?.destroy()
    host.view = null
  }
}

// Return a function that asks for a script run unless it has just been asked for the same change, so that the page around shows it.
export function rerunOnce(trigger) {
  let last = null
  return (change) => {
    if (last === change) return
    last = change
    trigger(change)
  }
}
