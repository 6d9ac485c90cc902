(() => {
  const faults = [];
  const name = (e) => e.outerHTML.replace(/\s+/g, " ").slice(0, 120);
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0;

  // Landmarks, language, title.
  for (const [what, n] of [["main", 1], ["header.top", 1], ["footer", 1], ["h1", 1]]) {
    const found = document.querySelectorAll(what).length;
    if (found !== n) faults.push(`${found} of ${what}`);
  }
  if (document.documentElement.lang !== "en" || !document.title) faults.push("no language or no title");

  // Headings do not skip a level.
  let level = 0;
  for (const h of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    if (!visible(h)) continue;
    const n = Number(h.tagName[1]);
    if (n > level + 1) faults.push(`heading ${name(h)} comes after level ${level}`);
    level = n;
  }

  // Everything that takes input or leads somewhere has a name; IDs are unique.
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (visible(e) && e.labels.length === 0 && !e.getAttribute("aria-label")) faults.push(`no label: ${name(e)}`);
  }
  for (const e of document.querySelectorAll("a, button, summary")) {
    if (visible(e) && !e.textContent.trim() && !e.getAttribute("aria-label")) faults.push(`no text: ${name(e)}`);
  }
  for (const e of document.querySelectorAll("nav, form[role=search]")) {
    if (e.tagName === "NAV" && !e.getAttribute("aria-label")) faults.push(`navigation without a name: ${name(e)}`);
  }
  const ids = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (ids.has(e.id)) faults.push(`ID twice: ${e.id}`);
    ids.add(e.id);
  }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const id of `${e.getAttribute("aria-labelledby") || ""} ${e.getAttribute("aria-describedby") || ""}`.trim().split(/\s+/)) {
      if (!ids.has(id)) faults.push(`names an ID that is not there: ${name(e)}`);
    }
  }

  // Tables have heads.
  for (const t of document.querySelectorAll("table")) {
    if (!t.querySelector("th")) faults.push(`table without heads: ${name(t)}`);
  }

  // Contrast of text, as WCAG 2.1 computes it.
  const parse = (c) => {
    const m = c.match(/[\d.]+/g).map(Number);
    return { r: m[0], g: m[1], b: m[2], a: m.length > 3 ? m[3] : 1 };
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.a === 1) return c;
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor).a ? parse(getComputedStyle(document.documentElement).backgroundColor) : { r: 255, g: 255, b: 255 };
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(e) || !visible(e) || e.closest(".unseen, .skip, option")) continue;
    seen.add(e);
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(style.color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)} of ${style.color}: ${name(e)}`);
  }

  // The page is no wider than the window.
  if (document.documentElement.scrollWidth > window.innerWidth + 1) {
    const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > window.innerWidth + 1 && !e.closest(".table, .command, .tabs, pre, .unseen"));
    faults.push(`${document.documentElement.scrollWidth} wide: ${wide.length ? name(wide[0]) : "?"}`);
  }
  return faults;
})()
