// Optional parts of a vote: rubric dimensions, a note, a rewrite, a flag. Nothing of it has to be filled in.

import { element } from "../dom.js"
import { button } from "./frame.js"

const PROBLEMS = ["Prompt makes no sense", "Answer is cut off", "Unsafe or offensive", "Both answers are the same", "Other"]
const SIDES = [["A", "A"], ["TIE", "Same"], ["B", "B"]]

export class Extras {
  constructor({ onOpen, onFill }) {
    this.onOpen = onOpen
    this.onFill = onFill
    this.root = element("section", "bt-extras")
    this.root.setAttribute("aria-label", "More about this battle")
    this.rows = this.root.appendChild(element("div", "bt-rows"))
    this.note = this.drawer("note", "Note", "What made the difference?")
    this.rewrite = this.drawer("rewrite", "Rewrite of the better answer", "")
    const starts = element("div", "bt-starts")
    for (const side of ["A", "B"]) starts.appendChild(button("bt-quiet", `Start from ${side}`, "", () => this.startFrom(side)))
    this.rewrite.box.insertBefore(starts, this.rewrite.field)
    this.rewrite.field.rows = 8
    this.flagged = this.drawer("flag", "What is wrong with this battle?", null)
    this.flag = group(PROBLEMS.map((problem) => [problem, problem]), "What is wrong with this battle?")
    this.flagged.box.insertBefore(this.flag.root, this.flagged.box.lastChild)
    for (const kind of ["input", "click"]) this.root.addEventListener(kind, () => this.keep())
  }

  drawer(name, title, placeholder) {
    const box = this.root.appendChild(element("div", "bt-drawer"))
    box.hidden = true
    box.appendChild(element("span", "bt-name", title))
    let field = null
    if (placeholder !== null) {
      field = box.appendChild(element("textarea", "bt-field"))
      field.rows = 2
      field.maxLength = name === "note" ? 2000 : 20000
      field.placeholder = placeholder
      field.setAttribute("aria-label", title)
    }
    box.appendChild(button("bt-quiet", "Done", "", () => this.close(name)))
    return { name, box, field }
  }

  setUp(form, drafts) {
    this.drafts = drafts
    this.dimensions = form.dimensions.map(({ name, question }) => [name, this.row(question || name, group(SIDES, question || name))])
  }

  row(question, choice) {
    const row = this.rows.appendChild(element("div", "bt-row"))
    row.append(element("span", "bt-name", question), choice.root)
    return choice
  }

  // Fill in what an undone vote had, or what was filled in for a battle before the page was loaded.
  show(battle, isSingle, body = this.drafts.of(battle.id)) {
    this.battle = battle
    this.rows.hidden = isSingle
    for (const [name, choice] of this.dimensions) choice.set(body.dimensions?.[name] ?? null)
    this.note.field.value = body.note || ""
    this.rewrite.field.value = body.rewrite || ""
    this.flag.set(body.flag || null)
    for (const { box, name } of [this.note, this.rewrite, this.flagged]) {
      box.hidden = true
      this.onOpen(name, false)
    }
    this.keep()
  }

  // Keep what is filled in until its battle has a vote, and mark the tools that hold some of it.
  keep() {
    const parts = this.values()
    this.drafts.keep(this.battle.id, parts)
    for (const name of ["note", "rewrite", "flag"]) this.onFill(name, name in parts)
  }

  /**
   * Return what was filled in, as a vote's body holds it.
   * @returns {{dimensions?: Object<string, unknown>, note?: string, rewrite?: string, flag?: string}}
   */
  values() {
    const dimensions = Object.fromEntries(this.dimensions.map(([name, choice]) => [name, choice.value]).filter(([, value]) => value !== null))
    const parts = { note: this.note.field.value.trim(), rewrite: this.rewrite.field.value.trim(), flag: this.flag.value || "" }
    const filled = Object.entries(parts).filter(([, value]) => value)
    return { ...(Object.keys(dimensions).length ? { dimensions } : {}), ...Object.fromEntries(filled) }
  }

  toggle(name) {
    const { box, field } = { note: this.note, rewrite: this.rewrite, flag: this.flagged }[name]
    if (!box.hidden) { this.close(name); return }
    this.close()
    box.hidden = false
    this.onOpen(name, true)
    const target = field || box.querySelector("button")
    target.focus()
  }

  close(name) {
    for (const drawer of [this.note, this.rewrite, this.flagged]) {
      if (name && drawer.name !== name) continue
      const focused = document.activeElement
      if (focused instanceof HTMLElement && drawer.box.contains(focused)) focused.blur()
      drawer.box.hidden = true
      this.onOpen(drawer.name, false)
    }
  }

  startFrom(side) {
    this.rewrite.field.value = side === "A" ? this.battle.a : this.battle.b
    this.rewrite.field.focus()
  }
}

// Buttons of which at most one is pressed; pressing it again takes it back.
function group(choices, label) {
  const root = element("div", "bt-group")
  root.setAttribute("role", "group")
  root.setAttribute("aria-label", label)
  const choice = {
    root,
    value: null,
    set(value) {
      choice.value = value
      for (const [own, node] of nodes) node.setAttribute("aria-pressed", String(own === value))
    },
  }
  const nodes = choices.map(([value, words]) => {
    const node = root.appendChild(button("bt-chip", words, "", () => choice.set(choice.value === value ? null : value)))
    return [value, node]
  })
  choice.set(null)
  return choice
}
