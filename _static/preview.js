/* What a link leads to, shown while the pointer or the keyboard rests on it: equations, figures, terms, references, functions. */
(() => {
  const WAIT_MS = 250;
  const pages = new Map(); // address -> promise of its document

  function page(address) {
    if (address === location.href.split("#")[0]) return Promise.resolve(document);
    if (!pages.has(address)) {
      const read = async () => new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
      pages.set(address, read());
    }
    return pages.get(address);
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

  async function show(link, box) {
    const [address, anchor] = link.href.split("#");
    const found = (await page(address)).getElementById(decodeURIComponent(anchor));
    const part = found && excerpt(found);
    if (!part || box.dataset.link !== link.href) return;
    for (const named of [part, ...part.querySelectorAll("[id]")]) named.removeAttribute("id");
    for (const useless of part.querySelectorAll("a.headerlink")) useless.remove();
    for (const picture of part.querySelectorAll("img")) picture.src = new URL(picture.getAttribute("src"), address).href;
    box.replaceChildren(part);
    link.setAttribute("aria-describedby", box.id);
    box.hidden = false;
    if (window.MathJax && MathJax.typesetPromise && !part.querySelector("mjx-container")) await MathJax.typesetPromise([box]);
    await Promise.all([...box.querySelectorAll("img")].map((picture) => picture.decode()));
    const at = link.getBoundingClientRect();
    const below = at.bottom + box.offsetHeight + 8 < window.innerHeight || at.top < box.offsetHeight;
    box.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${below ? at.bottom + 6 : at.top - box.offsetHeight - 6}px`;
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
      box.hidden = true;
      box.dataset.link = "";
    };
    for (const link of document.querySelectorAll("article a.reference.internal[href*='#']")) {
      link.removeAttribute("title"); // a second tooltip
      const start = () => {
        hide();
        box.dataset.link = link.href;
        timer = setTimeout(() => show(link, box).catch(hide), WAIT_MS); // opened as a file, other pages cannot be read
      };
      link.addEventListener("mouseenter", start);
      link.addEventListener("focus", start);
      link.addEventListener("mouseleave", hide);
      link.addEventListener("blur", hide);
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("scroll", () => box.hidden || hide(), { passive: true });
  });
})();
