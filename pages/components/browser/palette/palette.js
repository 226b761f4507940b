// Search over the installation, opened from any page with Ctrl K. It outlives the element that asked for it, which Streamlit draws again
// at every change of page.

import { isTyping } from "../ballot/keys.js"
import { element } from "../dom.js"

const WAIT_MS = 120
const TIMEOUT_MS = 8000
const MAX_PLACES = 5
const NAME = "roundhousePalette"
const COLORS = ["background-color", "secondary-background-color", "text-color", "gray-text-color", "border-color", "primary-color", "base-radius", "font"]
const MODIFIER = /Mac|iPhone|iPad/.test(globalThis.navigator?.platform ?? "") ? "⌘" : "Ctrl"

// Give Streamlit's elements the roles that they lack for a screen reader: its navigation mixes items of a list with boxes of items,
// a popover opened by an icon has no name, and its sparklines read out hundreds of nameless marks.
function nameParts() {
  let isAsked = false
  const name = () => {
    isAsked = false
    for (const list of document.querySelectorAll("[data-testid=stSidebarNavItems]:not([role])")) list.setAttribute("role", "none")
    for (const item of document.querySelectorAll("[data-testid=stSidebarNavItems] li:not([role])")) {
      item.setAttribute("role", "none")
      const header = item.parentElement.querySelector(":scope > [data-testid=stNavSectionHeader] p")
      if (!header) continue
      item.parentElement.setAttribute("role", "group")
      item.parentElement.setAttribute("aria-label", header.textContent)
    }
    for (const menu of document.querySelectorAll("[data-testid=stPopoverBody][aria-label='']")) menu.setAttribute("aria-label", "More")
    for (const marks of document.querySelectorAll("[data-testid=stMetricChart] svg:not([aria-hidden])")) {
      marks.setAttribute("aria-hidden", "true")
      const chart = marks.closest("[data-testid=stMetricChart]"), title = chart.closest("[data-testid=stMetric]").querySelector("label")
      chart.setAttribute("role", "img")
      chart.setAttribute("aria-label", `Course of ${title.textContent}`)
    }
  }
  const later = () => { if (!isAsked) { isAsked = true; requestAnimationFrame(name) } }
  new MutationObserver(later).observe(document.body, { childList: true, subtree: true })
  later()
}

class Palette {
  constructor() {
    this.dialog = document.body.appendChild(element("dialog", "rp"))
    this.dialog.setAttribute("aria-label", "Search")
    this.field = element("input", "rp-field")
    this.list = element("ul", "rp-list")
    this.note = element("p", "rp-note")
    this.note.setAttribute("role", "status")
    for (const [name, value] of Object.entries({
      type: "text", role: "combobox", "aria-expanded": "false", "aria-controls": "rp-list", "aria-label": "Search", autocomplete: "off",
      spellcheck: "false", maxlength: "200", placeholder: "Search runs, datasets, checkpoints, campaigns, endpoints, pages…",
    })) this.field.setAttribute(name, value)
    this.list.id = "rp-list"
    this.list.setAttribute("role", "listbox")
    this.list.setAttribute("aria-label", "Results")
    this.dialog.append(this.field, this.list, this.note)
    this.dialog.onclose = () => this.field.setAttribute("aria-expanded", "false")
    this.field.oninput = () => this.later()
    this.field.onkeydown = (event) => this.press(event)
    this.button = element("button", "rp-open")
    this.button.type = "button"
    this.button.setAttribute("aria-keyshortcuts", "Control+K Meta+K")
    this.button.append(element("span", "", "Search"), element("kbd", "", `${MODIFIER} K`))
    this.button.onclick = () => this.show()
    this.dialog.onclick = (event) => { if (event.target === this.dialog) this.dialog.close() }
    window.addEventListener("keydown", (event) => this.onKey(event), { capture: true }) // before Streamlit's own keys
    document.addEventListener("click", (event) => this.onClick(event), { capture: true })
    nameParts()
  }

  // A page's own entry in the navigation leads from an object to its list: Streamlit would keep the address.
  onClick(event) {
    const link = event.target instanceof Element ? event.target.closest("a[data-testid=stSidebarNavLink]") : null
    if (!link || !location.search || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
    const { pathname } = new URL(/** @type {HTMLAnchorElement} */ (link).href)
    const place = this.data.places.find(({ address, query }) => address === pathname && !Object.keys(query).length)
    if (!place || pathname !== location.pathname) return
    event.preventDefault()
    event.stopPropagation()
    this.open({ place: place.number })
  }

  // Streamlit puts the navigation above all else in the sidebar, and far down on a low screen: the button goes above it.
  update(data, host, open) {
    this.data = data
    this.host = host
    this.open = open
    this.paint(this.button)
    const navigation = host.closest("[data-testid=stSidebar]")?.querySelector("[data-testid=stSidebarNav]")
    if (navigation) {
      if (navigation.previousElementSibling !== this.button) navigation.before(this.button)
    } else if (!this.button.isConnected) host.append(this.button)
  }

  // Colours of the theme, which Streamlit gives to a component alone.
  paint(node) {
    const style = getComputedStyle(this.host)
    for (const name of COLORS) node.style.setProperty(`--st-${name}`, style.getPropertyValue(`--st-${name}`))
  }

  onKey(event) {
    const key = event.key.toLowerCase()
    if (key === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
      event.preventDefault()
      event.stopPropagation()
      if (this.dialog.open) this.dialog.close()
      else this.show()
    } else if (event.key === "Escape" && this.dialog.open && !event.isComposing) {
      event.preventDefault()
      event.stopImmediatePropagation() // the page below has keys of its own
      this.dialog.close()
    } else if (event.key === "?" && !event.ctrlKey && !event.metaKey && !event.altKey && !isTyping(event) && !location.pathname.endsWith("/ballot")) {
      event.preventDefault()
      this.show("?")
    }
  }

  show(text = "") {
    this.paint(this.dialog)
    this.field.value = text
    if (!this.dialog.open) this.dialog.showModal()
    this.field.setAttribute("aria-expanded", "true")
    this.field.focus()
    this.field.select()
    this.draw([])
    this.ask()
  }

  later() {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.ask(), WAIT_MS)
  }

  // Ask the server. An answer that a later key has overtaken is dropped.
  async ask() {
    const query = this.field.value
    if (query.trim() === "?") { this.draw([]); return }
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS)
      const response = await fetch(`${this.data.url}?${new URLSearchParams({ q: query })}`, { cache: "no-store", signal })
      const { hits } = await response.json()
      if (query !== this.field.value) return
      this.draw(hits ?? [])
    } catch {
      if (query === this.field.value) this.draw([], "The pages' server does not answer.")
    }
  }

  draw(hits, problem = "") {
    const query = this.field.value.trim()
    if (query === "?") {
      this.list.replaceChildren(...this.data.shortcuts.map(([keys, text]) => shortcutRow(keys, text)))
      this.note.textContent = "Type to search instead."
      this.mark(null)
      return
    }
    const [first, rest] = placesFor(query, this.data.places)
    const known = hits.filter((hit) => hit.kind in this.data.kinds).map((hit) => this.hitRow(hit))
    const places = (rows) => rows.slice(0, MAX_PLACES).map((place) => this.placeRow(place))
    const rows = query ? [...places(first), ...known, ...places(rest)] : known
    if (query) rows.push(this.row(`Search the help for “${query}”`, "Help", `/help/search?${new URLSearchParams({ q: query })}`, null))
    this.list.replaceChildren(...rows)
    this.note.textContent = problem || (query ? "" : "The newest of what is here. ? lists the keys.")
    this.mark(rows[0] ?? null)
  }

  hitRow(hit) {
    const { label, address, parameter } = this.data.kinds[hit.kind]
    return this.row(hit.name || "Untitled", label, `${address}?${new URLSearchParams({ [parameter]: hit.key })}`, { kind: hit.kind, key: hit.key }, hit.when)
  }

  placeRow({ label, address, query, number }) {
    const search = new URLSearchParams(query).toString()
    return this.row(label, search ? "Action" : "Page", search ? `${address}?${search}` : address, { place: number })
  }

  // A row is a real link, so that it also opens in another tab. Without a target it is a page outside of Streamlit.
  row(name, kind, address, target, when = "") {
    const item = Object.assign(element("a", "rp-row rp-link"), { href: address, tabIndex: -1 })
    item.id = `rp-${crypto.randomUUID?.() ?? Math.random()}`
    item.setAttribute("role", "option")
    item.append(element("span", "rp-name", name), element("span", "rp-kind", when ? `${kind} · ${when}` : kind))
    item.leads = target
    item.onmousemove = () => this.mark(item)
    item.onclick = (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return
      event.preventDefault()
      this.choose(item)
    }
    return item
  }

  choose(item) {
    this.dialog.close()
    if (item.leads) this.open(item.leads)
    else window.open(item.href, "_blank", "noopener")
  }

  mark(item) {
    for (const other of this.list.children) other.setAttribute("aria-selected", String(other === item))
    this.marked = item
    if (item) this.field.setAttribute("aria-activedescendant", item.id)
    else this.field.removeAttribute("aria-activedescendant")
  }

  press(event) {
    if (event.isComposing) return
    const rows = [...this.list.querySelectorAll("[role=option]")]
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (step && rows.length) {
      event.preventDefault()
      const next = rows[(rows.indexOf(this.marked) + step + rows.length) % rows.length]
      this.mark(next)
      next.scrollIntoView({ block: "nearest" })
    } else if (event.key === "Enter" && this.marked) {
      event.preventDefault()
      if (event.ctrlKey || event.metaKey) window.open(this.marked.href, "_blank", "noopener")
      else this.choose(this.marked)
    }
  }
}

function shortcutRow(keys, text) {
  const item = element("li", "rp-row rp-shortcut")
  item.append(element("kbd", "", keys.replace("Ctrl", MODIFIER)), element("span", "", text))
  return item
}

// The places with a word that begins with each word of the query: those whose label begins with it, and the others.
export function placesFor(query, places) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean)
  const matching = places.filter(({ label, words: more }) => {
    const known = `${label} ${more}`.toLowerCase().split(/\s+/)
    return words.every((word) => known.some((other) => other.startsWith(word)))
  })
  const begins = ({ label }) => label.toLowerCase().startsWith(words.join(" "))
  return [matching.filter(begins), matching.filter((place) => !begins(place))]
}

export default function ({ data, parentElement, setTriggerValue }) {
  window[NAME] ??= new Palette()
  window[NAME].update(data, parentElement.querySelector(".rp-host"), (target) => setTriggerValue("opened", target))
}
