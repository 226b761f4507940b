// The parts of the pages' scripts that need no page: run by `node --test`, with a clock, a storage and events of their own.

import assert from "node:assert/strict"
import { beforeEach, mock, test } from "node:test"

const BROWSER = "../../pages/components/browser"

class MemoryStorage {
  values = new Map()
  getItem(name) { return this.values.get(name) ?? null }
  setItem(name, value) { this.values.set(name, String(value)) }
  removeItem(name) { this.values.delete(name) }
}
class HTMLElement {
  constructor(facts) { Object.assign(this, { tagName: "DIV", isContentEditable: false }, facts) }
}
class HTMLInputElement extends HTMLElement {}

Object.assign(globalThis, {
  HTMLElement, HTMLInputElement,
  window: new EventTarget(),
  document: Object.assign(new EventTarget(), { hidden: false }),
  localStorage: new MemoryStorage(),
})

const { splitName } = await import(`${BROWSER}/dom.js`)
const { differences } = await import(`${BROWSER}/ballot/diff.js`)
const { keyOf } = await import(`${BROWSER}/ballot/keys.js`)
const { Outbox } = await import(`${BROWSER}/ballot/outbox.js`)
const { Pace } = await import(`${BROWSER}/ballot/pace.js`)
const { Refusal, Silence, answerOf } = await import(`${BROWSER}/ballot/requests.js`)
const { ChatClient } = await import(`${BROWSER}/chat/client.js`)
const { split, default: drawRows } = await import(`${BROWSER}/data_rows/rows.js`)
const { PanelChooser } = await import(`${BROWSER}/live_chart/chooser.js`)
const { arrange, inWords, moved, number, panelsOf } = await import(`${BROWSER}/live_chart/panels.js`)
const { placesFor, default: drawPalette } = await import(`${BROWSER}/palette/palette.js`)
const { number: cellNumber } = await import(`${BROWSER}/run_table/table.js`)
const { around, linesOf } = await import(`${BROWSER}/live_chart/drawing.js`)
const { readSettings, writeSettings } = await import(`${BROWSER}/live_chart/settings.js`)

beforeEach(() => { globalThis.localStorage = new MemoryStorage() })

test("a long name that is cut keeps the end that tells it from others", () => {
  assert.deepEqual(splitName("DPO stories260K on llamafactory_dpo_en_demo · LR 1e-4"), ["DPO stories260K on llamafactory_dpo_en_demo", " · LR 1e-4"])
  assert.deepEqual(splitName("DPO stories260K on llamafactory_dpo_en_demo 2"), ["DPO stories260K on llamafactory_d", "po_en_demo 2"])
  assert.deepEqual(splitName("DPO stories260K on llamafactory_dpo_en_demo · LR 1e-4, weight decay 0.2")[1], ", weight decay 0.2")
  assert.deepEqual(splitName("village"), ["village", ""])
  assert.equal(splitName(`${"🙂".repeat(20)} of ${"🙂".repeat(20)}`).join("").length, 84)
})

test("differences join to both texts and mark what one of them has alone", () => {
  const [a, b] = differences("the red fox ran", "the brown fox ran home")
  assert.equal(a.map(([text]) => text).join(""), "the red fox ran")
  assert.equal(b.map(([text]) => text).join(""), "the brown fox ran home")
  assert.deepEqual(a.filter(([, differs]) => differs).map(([text]) => text.trim()), ["red"])
  assert.deepEqual(b.filter(([, differs]) => differs).map(([text]) => text.trim()), ["brown", "home"])
})

test("equal texts have no difference, and endless ones are not compared", () => {
  assert.deepEqual(differences("same", "same"), [[["same", false]], [["same", false]]])
  const long = (word) => Array.from({ length: 3000 }, (_, index) => word + index).join(" ")
  assert.equal(differences(long("a"), long("b")), null)
})

test("what was searched for is marked whatever its case, and is never read as a pattern", () => {
  assert.deepEqual(split("a.b A.B axb", "a.b"), [["a.b", true], [" ", false], ["A.B", true], [" axb", false]])
  assert.deepEqual(split("(unclosed", "("), [["(", true], ["unclosed", false]])
  assert.deepEqual(split("as it is", ""), [["as it is", false]])
})

test("keys pressed in a field, with a modifier or held down are none of the ballot's", () => {
  const press = (key, facts = {}) => keyOf({ key, target: new HTMLElement(), ...facts })
  assert.equal(press("1"), "1")
  assert.equal(press("J"), "down")
  assert.equal(press("1", { ctrlKey: true }), null)
  assert.equal(press("1", { repeat: true }), null)
  assert.equal(press("ArrowDown", { repeat: true }), "down")
  const typed = { target: new HTMLInputElement({ tagName: "INPUT", type: "text" }) }
  assert.equal(press("1", typed), null)
  assert.equal(press("Escape", typed), "escape")
  assert.equal(press("1", { target: new HTMLInputElement({ tagName: "INPUT", type: "radio" }) }), "1")
})

function makeOutbox(send) {
  const events = { saved: [], refused: [], changes: 0 }
  const outbox = new Outbox("votes", {
    send,
    onSaved: (letter, answer) => events.saved.push([letter.body, answer]),
    onRefused: (letter, refusal) => events.refused.push([letter?.body ?? null, refusal.status]),
    onChange: () => { events.changes += 1 },
  })
  return { outbox, events }
}

test("votes are sent in order, one at a time", async () => {
  const sent = []
  const { outbox, events } = makeOutbox(async (letter) => { sent.push(letter.body); return { ok: letter.body } })
  for (const body of [1, 2, 3]) outbox.add("vote", body)
  await outbox.flush()
  assert.deepEqual(sent, [1, 2, 3])
  assert.deepEqual(events.saved, [[1, { ok: 1 }], [2, { ok: 2 }], [3, { ok: 3 }]])
  assert.equal(localStorage.getItem("votes"), null)
  outbox.destroy()
})

test("a vote outlives a silent server and a reload", async () => {
  const { outbox } = makeOutbox(async () => { throw new Silence("down") })
  outbox.add("vote", { battle: "b", label: "A" })
  await outbox.flush()
  assert.equal(outbox.isStuck, true)
  outbox.destroy()
  const after = makeOutbox(async () => ({ ok: true }))
  await after.outbox.flush()
  assert.deepEqual(after.events.saved, [[{ battle: "b", label: "A" }, { ok: true }]])
  after.outbox.destroy()
})

test("a refused vote is dropped with its reason, and the next one is sent", async () => {
  const { outbox, events } = makeOutbox(async (letter) => {
    if (letter.body === "bad") throw new Refusal(400, { error: "No such battle." })
    return {}
  })
  outbox.add("vote", "bad")
  outbox.add("vote", "good")
  await outbox.flush()
  assert.deepEqual(events.refused, [["bad", 400]])
  assert.deepEqual(events.saved.map(([body]) => body), ["good"])
  outbox.destroy()
})

test("an ended link bars the outbox and loses nothing", async () => {
  let tries = 0
  const { outbox, events } = makeOutbox(async () => { tries += 1; throw new Refusal(401) })
  outbox.add("vote", "mine")
  await outbox.flush()
  await outbox.flush()
  assert.equal(tries, 1)
  assert.deepEqual(events.refused, [[null, 401]])
  assert.match(localStorage.getItem("votes"), /mine/)
  outbox.destroy()
})

test("a vote that was tried can't be taken back", async () => {
  const { outbox } = makeOutbox(async () => { throw new Silence("down") })
  const first = outbox.add("vote", 1)
  await outbox.flush()
  const second = outbox.add("vote", 2)
  assert.equal(outbox.takeBack(first), false)
  assert.equal(outbox.takeBack(second), true)
  assert.deepEqual(outbox.letters.map((letter) => letter.body), [1])
  outbox.destroy()
})

test("a streak of one side is named once, skips aside", () => {
  const notices = []
  const pace = new Pace({ notify: (kind) => notices.push(kind) })
  pace.setUp({ break_after_min: 0 })
  for (let vote = 0; vote < 11; vote += 1) pace.voted("A")
  pace.voted("SKIPPED")
  assert.deepEqual(notices, [])
  pace.voted("A")
  pace.voted("A")
  assert.deepEqual(notices, ["streak"])
  pace.destroy()
})

test("time in which the page is hidden does not count", () => {
  mock.method(performance, "now", () => clock)
  let clock = 1000
  const pace = new Pace({ notify() {} })
  pace.begin()
  clock = 3000
  document.hidden = true
  document.dispatchEvent(new Event("visibilitychange"))
  clock = 60_000
  document.hidden = false
  document.dispatchEvent(new Event("visibilitychange"))
  clock = 61_000
  assert.equal(pace.elapsed(), 3000)
  pace.destroy()
  mock.restoreAll()
})

test("an answer is a document, a refusal that is final, or a silence that is worth another try", async () => {
  const reply = (status, body) => new Response(body, { status })
  assert.deepEqual(await answerOf(reply(200, '{"a": 1}')), { a: 1 })
  await assert.rejects(answerOf(reply(400, '{"error": "Unknown label.", "remedy": "Send A or B."}')), (error) => {
    assert.ok(error instanceof Refusal)
    assert.deepEqual([error.message, error.remedy, error.isAccess], ["Unknown label.", "Send A or B.", false])
    return true
  })
  for (const response of [reply(503, ""), reply(429, "{}"), reply(200, "<html>")]) await assert.rejects(answerOf(response), Silence)
})

test("events of an answer are read whole however they arrive in parts", async () => {
  const text = 'event: document\ndata: {"id": 7}\n\ndata: {"text": "é…"}\n\nevent: end\n\n'
  const bytes = new TextEncoder().encode(text)
  const stream = new ReadableStream({
    start(controller) {
      for (const byte of bytes) controller.enqueue(new Uint8Array([byte]))
      controller.close()
    },
  })
  const events = new ChatClient("", "", null).read(new Response(stream))
  assert.deepEqual((await events.next()).value, { kind: "document", data: { id: 7 } })
  assert.deepEqual((await events.next()).value, { kind: "answer", data: { text: "é…" } })
  assert.deepEqual(await events.next(), { value: true, done: true })
})

test("a metric without a panel of its own gets one in the group that its name tells", () => {
  const panels = panelsOf(new Set(["train_loss", "rewards/new", "kl_coef", "odd_thing"]))
  assert.deepEqual(panels.map(({ id, group }) => [id, group ?? ""]), [
    ["loss", ""], ["rewards/new", "Preferences"], ["kl_coef", "Rewards and policy"], ["odd_thing", "More"],
  ])
})

test("a run that learns from rewards begins with its reward", () => {
  const panels = panelsOf(new Set(["train_loss", "grad_norm", "reward/mean", "reward/std"]))
  assert.deepEqual(panels.map(({ id, group, wide }) => [id, group ?? "", Boolean(wide)]), [
    ["reward", "", true], ["loss", "", false], ["grad_norm", "", false], ["spread", "Rewards and policy", false],
  ])
})

test("a policy's validation loss is minus its mean reward, and no line of the loss", () => {
  const one = { steps: [1], values: [-0.5] }
  const runs = ["grpo", "sft"].map((objective) => ({ id: objective, objective }))
  const series = new Map([["train_loss", one], ["val_loss", one]])
  const chart = {
    data: { runs }, hidden: new Set(), theme: { colors: ["red"] }, settings: { x: "steps" },
    runs: new Map(runs.map(({ id }) => [id, { series }])),
  }
  const lines = linesOf(chart, { metrics: ["train_loss", "val_loss"] })
  assert.deepEqual(lines.map(({ run, name }) => [run.id, name]), [["grpo", "train_loss"], ["sft", "train_loss"], ["sft", "val_loss"]])
})

test("values are written by their metric's format, and nothing for none", () => {
  assert.deepEqual(
    [number(0.5, "%"), number(1_500_000, "B"), number(12_345.6, ",.0f"), number(null, ".3f"), number(Number.NaN, ".3f"), number(0.12345, ".3f")],
    ["50.0 %", "1.5 MB", "12,346", "", "", "0.123"],
  )
})

test("cells of running runs are written as by Python", () => {
  const written = [[1_536_000_000, "bytes"], [812, "bytes"], [2048.4, "count"], [48_310, "count"], [1_120_000, "count"], [2.5e9, "count"], [3e12, "count"]]
  assert.deepEqual(written.map(([value, form]) => cellNumber(value, form)), ["1.5 GB", "812 B", "2,048", "48.3 K", "1.12 M", "2.5 B", "3 T"])
  const spent = [[59.4, "duration"], [200, "duration"], [3599, "duration"], [7500, "duration"], [273_600, "duration"], [0.004, "usd"], [1234.5, "usd"]]
  assert.deepEqual(spent.map(([value, form]) => cellNumber(value, form)), ["59 s", "3 min 20 s", "60 min", "2 h 5 min", "3 d 4 h", "under $0.01", "$1,234.50"])
})

test("chart settings in the address count before those of the browser, and nonsense is the default", () => {
  globalThis.location = { search: "", href: "http://x/run?run=a" }
  localStorage.setItem("roundhouse.curves", JSON.stringify({ smoothing: 7, logy: true, x: "nonsense" }))
  assert.deepEqual(readSettings(), { x: "step", smoothing: 0.98, logx: false, logy: true, clip: false, panels: [] })
  location.search = "?chart=tokens_s60_clip&panels=grad_norm*,reward/std-,loss"
  const panels = [{ id: "grad_norm", wide: true, hidden: false }, { id: "reward/std", wide: false, hidden: true }, { id: "loss", wide: false, hidden: false }]
  assert.deepEqual(readSettings(), { x: "tokens", smoothing: 0.6, logx: false, logy: false, clip: true, panels })
  let address = ""
  globalThis.history = { state: null, replaceState: (_state, _title, url) => { address = String(url) } }
  writeSettings({ x: "tokens", smoothing: 0.6, logx: false, logy: false, clip: true, panels: [] })
  assert.equal(address, "http://x/run?run=a&chart=tokens_s60_clip")
  writeSettings({ x: "step", smoothing: 0.5, logx: false, logy: false, clip: false, panels })
  assert.equal(address, "http://x/run?run=a&panels=grad_norm*%2Creward%2Fstd-%2Closs")
  location.search = ""
  assert.deepEqual(readSettings().panels, panels) // the browser keeps them for other runs
})

test("panels come in the person's order, enlarged or left out, and those of other runs follow", () => {
  const names = new Set(["train_loss", "grad_norm", "learning_rate", "mfu"])
  const arranged = arrange(panelsOf(names), [{ id: "mfu", wide: true, hidden: false }, { id: "gone", wide: true, hidden: true }, { id: "loss", wide: false, hidden: true }])
  assert.deepEqual(arranged.map(({ id, wide, hidden }) => [id, Boolean(wide), Boolean(hidden)]), [
    ["mfu", true, false], ["loss", false, true], ["learning_rate", false, false], ["grad_norm", false, false],
  ])
  assert.deepEqual(moved(["a", "b", "c"], "c", 0), ["c", "a", "b"])
  assert.deepEqual(moved(["a", "b", "c"], "a", 1), ["b", "a", "c"])
})

test("a metric is named in words", () => {
  assert.deepEqual(["val_rewards/odd_thing", "train_loss_2", "lr"].map(inWords), ["Validation rewards, odd thing", "Train loss 2", "Lr"])
})

test("the palette puts pages whose label begins with the query first, and finds others by their words", () => {
  const places = [{ label: "Import votes", words: "ratings" }, { label: "Runs", words: "experiments" }, { label: "Battles", words: "campaigns votes" }]
  const labels = (query) => placesFor(query, places).map((group) => group.map(({ label }) => label))
  assert.deepEqual(labels("im"), [["Import votes"], []])
  assert.deepEqual(labels("VOTES"), [[], ["Import votes", "Battles"]])
  assert.deepEqual(labels("votes ratings"), [[], ["Import votes"]])
  assert.deepEqual(labels("nothing"), [[], []])
})

// A node without a page, of which these tests need that it holds others and hears keys.
class FakeNode extends EventTarget {
  children = []
  dataset = {}
  style = { setProperty() {} }
  appendChild(node) { this.children.push(node); return node }
  append(...nodes) { this.children.push(...nodes) }
  replaceChildren(...nodes) { this.children = nodes }
  setAttribute(name, value) { this[name] = value }
  contains() { return false }
  closest() { return null }
  querySelector() { return this }
  querySelectorAll() { return [] }
  checkVisibility() { return true }
  close() { this.open = false }
}

function withNodes(context) {
  Object.assign(document, { createElement: () => new FakeNode(), createTextNode: (text) => text, querySelector: () => null, querySelectorAll: () => [] })
  Object.assign(globalThis, {
    Element: FakeNode, MutationObserver: class { observe() {} }, requestAnimationFrame() {}, getComputedStyle: () => ({ getPropertyValue: () => "" }),
  })
  document.body = new FakeNode()
  context.after(() => { for (const name of ["createElement", "createTextNode", "querySelector", "querySelectorAll", "body"]) delete document[name] })
}

const pressed = (key) => Object.assign(new Event("keydown", { cancelable: true }), { key })

test("keys step through rows with caps lock, too", (context) => {
  withNodes(context)
  const moves = []
  const remove = drawRows({ data: { rows: [], keys: true, label: "" }, parentElement: new FakeNode(), setTriggerValue: (_, move) => moves.push(move) })
  for (const key of ["j", "J", "K", "ArrowRight"]) document.dispatchEvent(pressed(key))
  assert.deepEqual(moves, ["next", "next", "previous", "next"])
  FakeNode.prototype.remove = () => {}
  remove()
})

test("Esc closes the palette and reaches nothing below it", (context) => {
  withNodes(context)
  drawPalette({ data: {}, parentElement: new FakeNode(), setTriggerValue() {} })
  const heard = []
  window.addEventListener("keydown", (event) => heard.push(event.key))
  const { dialog } = window.roundhousePalette
  dialog.open = true
  window.dispatchEvent(pressed("Escape"))
  assert.deepEqual([dialog.open, heard], [false, []])
  window.dispatchEvent(pressed("Escape"))
  assert.deepEqual(heard, ["Escape"])
})

test("the menu of panels keeps its rows while nothing in it changes, so that no click is lost", (context) => {
  withNodes(context)
  const chart = { known: [{ id: "loss", title: "Loss" }, { id: "rate", title: "Rate" }], settings: { panels: [] } }
  const chooser = new PanelChooser(new FakeNode(), chart)
  chooser.box.open = true
  chooser.fill()
  const rows = chooser.menu.children
  assert.equal(rows.length, 3)
  chooser.fill()
  assert.equal(chooser.menu.children, rows)
  chart.known = [{ id: "loss", title: "Loss", hidden: true }, { id: "rate", title: "Rate" }]
  chooser.fill()
  assert.notEqual(chooser.menu.children, rows)
  chooser.destroy()
})

test("a chart of one value has a range of its own, none below zero for what can't be, and none where values differ", () => {
  assert.deepEqual(around([27_530_000], { format: "B" }), [24_777_000, 30_283_000])
  assert.deepEqual(around([0], { format: "%" }), [0, 0.05])
  assert.deepEqual(around([-2, -2]), [-2.2, -1.8])
  assert.deepEqual(around([0, 0]), [0, 1])
  assert.deepEqual(around([100], { log: true }).map((power) => (10 ** power).toFixed(1)), ["83.3", "120.0"])
  assert.equal(around([1, 2]), undefined)
  assert.equal(around([0], { log: true }), undefined)
})

test("learning rates are numbers as people write them", () => {
  assert.deepEqual([5.5, 0.0003, 0.000123456, 3e-7].map((value) => number(value, ".3e")), ["5.5", "0.0003", "0.000123", "3e-7"])
})
