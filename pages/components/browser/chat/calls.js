// Calls of tools in an answer, the form for what the tools returned, and a result in the conversation.

import { element } from "../dom.js"
import { copy, iconButton } from "./icons.js"

export function callBox({ name, arguments: text }) {
  const box = element("div", "pg-call")
  const head = element("div", "pg-call-head")
  head.append(icon("build"), element("span", "", "Calls "), element("strong", "", name || "a tool"))
  box.append(head, element("pre", "pg-raw", indented(text)))
  return box
}

// The arguments as they would be written by hand; as they are while they still arrive.
function indented(text) {
  try { return JSON.stringify(JSON.parse(text || "{}"), null, 2) } catch { return text }
}

function icon(name) {
  const node = element("span", "pg-icon", name)
  node.setAttribute("aria-hidden", "true")
  return node
}

// A field for each call of an answer; `onSend` gets their texts.
export function resultForm(names, onSend) {
  const form = element("form", "pg-results")
  const fields = names.map((name, at) => {
    const label = element("label", "pg-result-label")
    const field = element("textarea", "pg-field")
    field.rows = 2
    field.placeholder = '{"temperature": 12}'
    const total = names.length > 1 ? ` (${at + 1} of ${names.length})` : ""
    label.append(element("span", "", `Result of ${name}${total}`), field)
    form.append(label)
    return field
  })
  const row = element("div", "pg-edit-row")
  const send = element("button", "pg-main", names.length > 1 ? "Send results" : "Send result")
  send.type = "submit"
  row.append(send)
  form.append(row)
  form.onsubmit = async (event) => {
    event.preventDefault()
    const empty = fields.find((field) => !field.value.trim())
    if (empty) { empty.focus(); return }
    send.disabled = true
    if (!(await onSend(fields.map((field) => field.value)))) send.disabled = false
  }
  for (const field of fields) field.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit() }
  }
  return form
}

export function resultBox({ text, tool }, tools) {
  const box = element("article", "pg-result")
  box.setAttribute("aria-label", `Result of ${tool}`)
  const head = element("div", "pg-call-head")
  head.append(icon("output"), element("span", "", "Result of "), element("strong", "", tool))
  tools.prepend(iconButton("content_copy", "Copy", (event) => copy(text, event.currentTarget)))
  box.append(head, element("pre", "pg-raw", text || "(empty)"), tools)
  return box
}
