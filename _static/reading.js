/* Reading by keyboard, on a phone and on paper. */
// A table that scrolls can be reached by keyboard.
function reachTables() {
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
window.addEventListener("resize", reachTables);
let scrolled = false; // by the reader
for (const event of ["wheel", "touchmove", "keydown"]) window.addEventListener(event, () => { scrolled = true; }, { once: true, passive: true });
window.addEventListener("load", async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  // Formulas above the section that an address names have pushed it away.
  const section = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (section && !scrolled) section.scrollIntoView();
  // MathJax makes every formula a stop of the Tab key, hundreds a page; only a wide one, which scrolls, needs to be one.
  for (const formula of document.querySelectorAll("mjx-container:not([display])")) formula.removeAttribute("tabindex");
  reachTables();
});

// Where the page contents lie over the text, a link in them uncovers the section that it leads to.
document.addEventListener("click", (event) => {
  if (event.target.closest(".bd-sidebar-secondary a")) document.getElementById("pst-secondary-sidebar-checkbox").checked = false;
});

// Paper is white, and solutions are not folded on it.
const root = document.documentElement;
let before = { theme: "light", folded: [] };
window.addEventListener("beforeprint", () => {
  before = { theme: root.dataset.theme, folded: [...document.querySelectorAll("article details:not([open])")] };
  root.dataset.theme = "light";
  for (const fold of before.folded) fold.open = true;
});
window.addEventListener("afterprint", () => {
  root.dataset.theme = before.theme;
  for (const fold of before.folded) fold.open = false;
});
