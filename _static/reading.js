/* Reading by keyboard and on paper. */
window.addEventListener("load", async () => {
  if (!window.MathJax || !MathJax.startup) return;
  await MathJax.startup.promise;
  // MathJax makes every formula a stop of the Tab key, hundreds a page; only a wide one, which scrolls, needs to be one.
  for (const formula of document.querySelectorAll("mjx-container:not([display])")) formula.removeAttribute("tabindex");
});
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("article details")) fold.open = true;
});
