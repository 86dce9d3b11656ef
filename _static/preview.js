/* What a link leads to, shown while the pointer or the keyboard rests on it: equations, figures, terms, references, functions. */
(() => {
  const WAIT_MS = 250; // before a preview comes, and before it goes, so that the pointer can enter it
  const here = location.href.split("#")[0];
  const pages = new Map([[here, document]]);

  /* The document behind an address, or null where it cannot be read: a book opened as a file has only the page itself. */
  async function page(address) {
    if (!pages.has(address) && location.protocol !== "file:") {
      const answer = await fetch(address);
      if (answer.ok) pages.set(address, new DOMParser().parseFromString(await answer.text(), "text/html"));
    }
    return pages.get(address) || null;
  }

  /* The part of a page that a link leads to, or null where it leads to a whole section. */
  function excerpt(target) {
    const part = target.closest("div.math, figure, div.citation, table");
    return part ? part.cloneNode(true) : definition(target.closest("dt"));
  }

  function definition(term) {
    if (!term) return null;
    const box = document.createElement("dl");
    const meaning = term.nextElementSibling;
    box.append(term.cloneNode(true));
    const paragraphs = meaning ? [...meaning.querySelectorAll(":scope > p, :scope > div.math")].slice(0, 2) : [];
    box.append(...paragraphs.map((each) => each.cloneNode(true)));
    return box;
  }

  /* A copy that shows the same elsewhere, and through which the keyboard does not pass. */
  function loosen(part, address) {
    for (const named of [part, ...part.querySelectorAll("[id]")]) named.removeAttribute("id");
    for (const useless of part.querySelectorAll("a.headerlink")) useless.remove();
    for (const link of part.querySelectorAll("a[href]")) link.href = new URL(link.getAttribute("href"), address).href;
    for (const picture of part.querySelectorAll("img")) picture.src = new URL(picture.getAttribute("src"), address).href;
    for (const stop of part.querySelectorAll("a, [tabindex]")) stop.tabIndex = -1;
  }

  function place(box, link) {
    const at = link.getBoundingClientRect();
    const above = at.top - 14;
    const below = window.innerHeight - at.bottom - 14;
    box.style.maxHeight = `${Math.max(above, below)}px`;
    box.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${below >= above ? at.bottom + 6 : at.top - box.offsetHeight - 6}px`;
  }

  async function show(link, box) {
    const [address, anchor] = link.href.split("#");
    const source = await page(address);
    const target = source && source.getElementById(decodeURIComponent(anchor));
    const part = target && excerpt(target);
    if (!part || box.link !== link) return;
    loosen(part, address);
    box.replaceChildren(part);
    box.style.visibility = "hidden"; // until it has its place
    box.hidden = false;
    if (window.MathJax && MathJax.typesetPromise && !part.querySelector("mjx-container")) await MathJax.typesetPromise([part]);
    await Promise.allSettled([...part.querySelectorAll("img")].map((picture) => picture.decode()));
    if (box.link !== link) return;
    place(box, link);
    box.style.visibility = "";
    link.setAttribute("aria-describedby", box.id);
    link.removeAttribute("title"); // a second tooltip
  }

  document.addEventListener("DOMContentLoaded", () => {
    const box = document.createElement("div");
    box.className = box.id = "link-preview";
    box.setAttribute("role", "tooltip");
    box.hidden = true;
    document.querySelector("main").append(box);
    let timer;
    const hide = () => {
      clearTimeout(timer);
      if (box.link) box.link.removeAttribute("aria-describedby");
      box.link = null;
      box.hidden = true;
    };
    const leave = () => {
      clearTimeout(timer);
      timer = setTimeout(() => box.matches(":hover") || hide(), WAIT_MS);
    };
    for (const link of document.querySelectorAll("article a.reference.internal[href*='#']")) {
      const start = () => {
        hide();
        box.link = link;
        timer = setTimeout(() => show(link, box), WAIT_MS);
      };
      link.addEventListener("mouseenter", start);
      link.addEventListener("focus", start);
      link.addEventListener("mouseleave", leave);
      link.addEventListener("blur", hide);
    }
    box.addEventListener("mouseleave", leave);
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("scroll", () => box.hidden || hide(), { passive: true });
  });
})();
