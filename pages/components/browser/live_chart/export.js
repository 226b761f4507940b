// Save the panels as one picture, drawn as they lie on the screen. The points themselves come from the server as CSV.

const HEAD = 36
const SCALE = 2

export async function savePicture(chart) {
  const { grid, theme, Plotly } = chart
  const frame = grid.getBoundingClientRect()
  const canvas = document.createElement("canvas")
  canvas.width = Math.ceil(frame.width * SCALE)
  canvas.height = Math.ceil((frame.height + HEAD) * SCALE)
  const pen = canvas.getContext("2d")
  pen.scale(SCALE, SCALE)
  pen.fillStyle = theme.back
  pen.fillRect(0, 0, frame.width, frame.height + HEAD)
  pen.translate(0, HEAD)
  const names = chart.data.runs.filter((run) => !chart.hidden.has(run.id)).map((run) => run.label)
  write(pen, theme, names.join(", "), { x: 4, y: 17 - HEAD, font: "600 14px" })
  for (const panel of chart.panels.values()) {
    if (!panel.drawn) continue
    const box = within(frame, panel.box.getBoundingClientRect())
    pen.strokeStyle = theme.line
    pen.strokeRect(box.x + 0.5, box.y + 0.5, box.width - 1, box.height - 1)
    drawTexts(pen, theme, panel.box.querySelector(".rh-title"), frame)
    const plot = within(frame, panel.plot.getBoundingClientRect())
    const image = new Image()
    image.src = await Plotly.toImage(panel.plot, { format: "png", width: plot.width, height: plot.height, scale: SCALE })
    await image.decode()
    pen.drawImage(image, plot.x, plot.y, plot.width, plot.height)
  }
  canvas.toBlob((blob) => save(blob, `${chart.fileName()}.png`))
}

function save(blob, name) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(blob)
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10000)
}

function within(frame, box) {
  return { x: box.left - frame.left, y: box.top - frame.top, width: box.width, height: box.height }
}

function write(pen, theme, text, { x, y, font }) {
  pen.font = `${font} ${theme.font}`
  pen.fillStyle = theme.text
  pen.fillText(text, x, y)
}

// Title and legend of a panel, each piece of text and each line mark where it stands.
function drawTexts(pen, theme, title, frame) {
  const walker = document.createTreeWalker(title, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim()
    if (!text) continue
    const range = document.createRange()
    range.selectNodeContents(walker.currentNode)
    const { fontSize, fontWeight } = getComputedStyle(walker.currentNode.parentElement)
    const box = within(frame, range.getBoundingClientRect())
    write(pen, theme, text, { x: box.x, y: box.y + 0.78 * box.height, font: `${fontWeight} ${fontSize}` })
  }
  for (const line of title.querySelectorAll(".rh-mark line")) {
    const box = within(frame, line.ownerSVGElement.getBoundingClientRect())
    pen.strokeStyle = line.getAttribute("stroke")
    pen.lineWidth = 2.4
    pen.setLineDash(line.getAttribute("stroke-dasharray").split(" ").filter(Boolean).map(Number))
    pen.beginPath()
    pen.moveTo(box.x, box.y + box.height / 2)
    pen.lineTo(box.x + box.width, box.y + box.height / 2)
    pen.stroke()
    pen.setLineDash([])
    pen.lineWidth = 1
  }
}
