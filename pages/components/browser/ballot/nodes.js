// Markdown nodes as DOM nodes. The text is a network's: it is set as text alone, in elements of this list alone, without any attribute that loads.

import { element } from "../dom.js"

const ELEMENTS = {
  p: "p", blockquote: "blockquote", ul: "ul", ol: "ol", li: "li", hr: "hr", br: "br", em: "em", strong: "strong", s: "s", code: "code",
  table: "table", thead: "thead", tbody: "tbody", tr: "tr", th: "th", td: "td",
  h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", h6: "h6", // below the headings of the ballot
}
const ALIGNMENTS = ["left", "center", "right"]

const waiting = new Set() // formulas drawn before KaTeX has arrived
let katex = null

// Fetch KaTeX, of which Streamlit ships a copy; without it TeX is shown as it was written. Browsers draw its MathML without a style sheet.
export function loadMaths(url) {
  if (!url || katex) return
  import(new URL(url, document.baseURI).href).then((module) => {
    katex = module.default
    for (const formula of waiting) if (formula.isConnected) typeset(formula)
    waiting.clear()
  }, () => waiting.clear())
}

function typeset(formula) {
  if (!katex) { waiting.add(formula); return }
  const source = formula.textContent
  try {
    katex.render(source, formula, { displayMode: formula.dataset.block === "yes", trust: false, strict: "ignore", errorColor: "currentcolor", maxExpand: 200, maxSize: 20, output: "mathml" })
  } catch {
    formula.textContent = source
  }
}

function formulaOf(source, block) {
  const node = element("span", "bt-math", source)
  node.dataset.block = block ? "yes" : "no"
  typeset(node)
  return node
}

// Words followed by an address that can be read but not followed.
function addressed(kids, address, className) {
  const node = element("span", className)
  drawNodes(kids, node)
  if (node.textContent !== address) node.appendChild(element("span", "bt-address", ` (${address})`))
  return node
}

function pictureOf(kids, address) {
  const node = element("span", "bt-picture", "Image: ")
  node.appendChild(document.createTextNode(kids.join("") || "no description"))
  node.appendChild(element("span", "bt-address", ` (${address})`))
  return node
}

// A wide table or a long line of code scrolls by itself, also by keyboard.
function scroller(node, label) {
  const box = element("div", "bt-wide")
  box.tabIndex = 0
  box.setAttribute("role", "group")
  box.setAttribute("aria-label", label)
  box.appendChild(node)
  return box
}

function codeOf(text, language) {
  const pre = element("pre", language === "verbatim" ? "bt-verbatim" : "bt-code")
  pre.appendChild(element("code", "", text))
  return language === "verbatim" ? pre : scroller(pre, language ? `Code, ${language}` : "Code")
}

function nodeOf([tag, kids, detail]) {
  if (tag === "math" || tag === "mathblock") return formulaOf(kids.join(""), tag === "mathblock")
  if (tag === "link") return addressed(kids, detail, "bt-link")
  if (tag === "image") return pictureOf(kids, detail)
  if (tag === "pre") return codeOf(kids.join(""), detail)
  const name = ELEMENTS[tag]
  const node = element(name || "span")
  if (tag === "ol") node.start = Number(detail) || 1
  if ((tag === "th" || tag === "td") && ALIGNMENTS.includes(detail)) node.style.textAlign = detail
  drawNodes(kids, node)
  return tag === "table" ? scroller(node, "Table") : node
}

export function drawNodes(nodes, parent) {
  for (const one of nodes) parent.appendChild(typeof one === "string" ? document.createTextNode(one) : nodeOf(one))
}
