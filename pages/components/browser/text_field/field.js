// A text field that reports its text while it is typed. Once it is there, what stands in it belongs to the
// browser: a rerun, which comes later than the next letter, takes none away.

const WAIT_MS = 200

class LiveText {
  constructor(host) {
    this.host = host
    this.label = document.createElement("span")
    this.label.className = "rl-label"
    this.area = document.createElement("textarea")
    this.area.className = "rl-area"
    this.area.spellcheck = false
    this.area.dir = "auto"
    this.area.oninput = () => this.later()
    this.area.onblur = () => this.send()
    host.replaceChildren(this.label, this.area)
  }

  update(data, setState) {
    this.setState = setState
    this.label.textContent = data.label
    this.area.maxLength = data.max_chars
    this.area.rows = data.lines
    if (this.sent === undefined) this.sent = this.area.value = data.value
  }

  later() {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.send(), WAIT_MS)
  }

  send() {
    clearTimeout(this.timer)
    if (this.area.value === this.sent) return
    this.sent = this.area.value
    this.setState("text", this.sent)
  }
}

export default function (component) {
  const { data, parentElement, setStateValue } = component
  const host = parentElement.querySelector(".rl-host")
  if (!host.field) host.field = new LiveText(host)
  host.field.update(data, setStateValue)
  return () => {
    clearTimeout(host.field?.timer)
    host.field = null
  }
}
