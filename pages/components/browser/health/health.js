// One line at the foot of the window while a part of the installation fails: there it moves nothing when it comes. It outlives the element
// that asked for it, which Streamlit takes away and draws again at every change of page.

import { element } from "../dom.js"

const EVERY_MS = 3000
const TIMEOUT_MS = 5000
const NAME = "roundhouseHealth"
const GUESS = /Streamlit server is not responding|Is Streamlit still running/
const SERVER = {
  cause: "The pages' server does not answer: what you see may be out of date, and is not lost.",
  cure: "What runs this installation starts it again within seconds, and the page continues by itself. If it stays away for a minute, see `logs/pages.log` in the home folder; if nothing runs there, `roundhouse up` starts all.",
}

class HealthLine {
  constructor(url) {
    this.url = url
    this.failures = 0
    this.shown = null
    this.bar = document.body.appendChild(element("div", "rr-health"))
    this.bar.setAttribute("role", "status")
    this.bar.hidden = true
    new ResizeObserver(() => { if (!this.bar.hidden) this.makeRoom() }).observe(this.bar)
    new MutationObserver((records) => records.flatMap((record) => [...record.addedNodes]).forEach(closeGuess)).observe(document.body, { childList: true })
    this.poll()
  }

  async poll() {
    if (!document.hidden) this.show(await this.ask())
    setTimeout(() => this.poll(), EVERY_MS)
  }

  // The parts that fail. A single lost answer, such as of a server that restarts, says nothing yet.
  async ask() {
    try {
      const response = await fetch(this.url, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) })
      const { outages } = await response.json()
      this.failures = 0
      return outages ?? []
    } catch {
      this.failures += 1
      return this.failures > 1 ? [SERVER] : null
    }
  }

  show(outages) {
    const text = JSON.stringify(outages)
    if (outages === null || text === this.shown) return
    this.shown = text
    this.bar.replaceChildren(...outages.map(row))
    this.bar.hidden = outages.length === 0
    this.makeRoom()
  }

  // End the application and the ballot, which lies over it, above the line, so that it hides nothing of them (page.css). The next page
  // of this tab has the room from its first moment (PageHeads).
  makeRoom() {
    const root = document.documentElement, height = this.bar.hidden ? "" : `${this.bar.offsetHeight}px`
    root.style.setProperty("--rr-health", height || "0px")
    root.classList.toggle("rr-outage", !this.bar.hidden)
    try {
      sessionStorage.setItem(NAME, height)
    } catch { /* a browser that keeps nothing */ }
  }
}

// Close Streamlit's own dialog, which asks whether the internet is there. The line says what to start.
function closeGuess(node) {
  if (!(node instanceof HTMLElement) || !node.matches(".stDialog") || !GUESS.test(node.textContent)) return
  node.style.display = "none"
  const button = node.querySelector("button[aria-label=Close]")
  if (button instanceof HTMLElement) button.click()
}

// A phone shows one line of the cause, and the rest on request (style.css): all of it would take an eighth of the page.
function row({ cause, cure }) {
  const line = element("p", "rr-health-part")
  const fault = element("strong")
  fault.append(...withCode(cause))
  const remedy = element("span")
  remedy.append(...withCode(cure))
  const more = element("button", "rr-health-more")
  const unfold = (isOpen) => {
    more.textContent = isOpen ? "Less" : "Details"
    more.setAttribute("aria-expanded", String(isOpen))
    more.onclick = () => unfold(!isOpen)
  }
  unfold(false)
  line.append(fault, " ", remedy, " ", more)
  return line
}

function withCode(text) {
  return text.split("`").map((part, number) => (number % 2 ? element("code", "", part) : part))
}

export default function ({ data }) {
  window[NAME] ??= new HealthLine(data.url)
}
