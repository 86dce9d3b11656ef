/* The toy gene of "The note on one page" with two sliders. Without this script, and on paper, it is a picture. */
document.addEventListener("DOMContentLoaded", () => {
  const figure = document.getElementById("fig-ch00-toy");
  if (figure) makeMovable(figure);
});

function makeMovable(figure) {
  const [m, x] = [2, 6]; // neighbour mean and measurement, as in the text
  const [WIDTH, LEFT, RIGHT] = [400, 138, 390]; // of the drawing, and where expression 0 and 8 lie in it
  const at = (expression) => LEFT + ((RIGHT - LEFT) * expression) / 8;
  const row = { mean: 24, bayes: 58, printed: 92, measured: 126, axis: 150 };

  const box = document.createElement("div");
  box.className = "toy-gene";
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Toy gene: change the two variances");
  const slider = (id, name, value) => `
    <label for="${id}">${name}<span class="toy-value" aria-hidden="true"></span></label>
    <input type="range" id="${id}" min="0.25" max="4" step="0.25" value="${value}">`;
  const tick = (value) => `<text x="${at(value)}" y="${row.axis + 18}" text-anchor="middle">${value}</text>`;
  const label = (text, y) => `<text x="${LEFT - 10}" y="${y + 5}" text-anchor="end">${text}</text>`;
  const bar = (name, centre, y) => `
    <line class="toy-guide" x1="${at(centre)}" x2="${at(centre)}" y1="8" y2="${row.axis}"/>
    <line class="toy-bar" data-bar="${name}" y1="${y}" y2="${y}"/><circle class="toy-bar" cx="${at(centre)}" cy="${y}" r="4"/>`;
  box.innerHTML = `
    <div class="toy-sliders">
      <div>${slider("toy-noise", "Noise variance σ²", 1)}</div>
      <div>${slider("toy-prior", "Prior variance τ²", 3)}</div>
    </div>
    <svg viewBox="0 0 ${WIDTH} ${row.axis + 42}" role="img">
      ${label("neighbour mean", row.mean)}${label("Eq. (1)", row.bayes)}
      ${label("note, section 6", row.printed)}${label("measurement", row.measured)}
      ${bar("mean", m, row.mean)}${bar("measured", x, row.measured)}
      <circle class="toy-bayes" cy="${row.bayes}" r="7"/>
      <path class="toy-printed" d="M0-8 8 0 0 8-8 0z"/>
      <path class="toy-axis" d="M${LEFT} ${row.axis}H${RIGHT}"/>
      ${[0, 2, 4, 6, 8].map(tick).join("")}
      <text x="${(LEFT + RIGHT) / 2}" y="${row.axis + 37}" text-anchor="middle">expression</text>
    </svg>
    <table class="table">
      <thead><tr><td></td><th scope="col">Eq.&nbsp;(1)</th><th scope="col">note, section&nbsp;6</th></tr></thead>
      <tbody>
        <tr><th scope="row">formula</th><td>τ²/(σ²+τ²)</td><td>σ²/(σ²+τ²)</td></tr>
        <tr data-row="weight"><th scope="row">weight of the gene</th><td></td><td></td></tr>
        <tr data-row="estimate"><th scope="row">estimate</th><td></td><td></td></tr>
        <tr data-row="error"><th scope="row">mean squared error</th><td></td><td></td></tr>
      </tbody>
    </table>
    <p><output for="toy-noise toy-prior" aria-live="polite"></output></p>`;
  const [noise, prior] = box.querySelectorAll("input");

  function show() {
    const [noiseVar, priorVar] = [Number(noise.value), Number(prior.value)];
    const weights = [priorVar / (noiseVar + priorVar), noiseVar / (noiseVar + priorVar)];
    const estimates = weights.map((w) => (1 - w) * m + w * x);
    const errors = weights.map((w) => w ** 2 * noiseVar + (1 - w) ** 2 * priorVar);
    for (const [name, values] of Object.entries({ weight: weights, estimate: estimates, error: errors })) {
      values.forEach((value, k) => (box.querySelector(`[data-row=${name}]`).cells[k + 1].textContent = value.toFixed(2)));
    }
    for (const [input, name] of [[noise, "noise"], [prior, "prior"]]) {
      input.setAttribute("aria-valuetext", `${name} variance ${input.value}`);
      input.parentElement.querySelector(".toy-value").textContent = ` = ${Number(input.value).toFixed(2)}`;
    }
    for (const [name, centre, variance] of [["mean", m, priorVar], ["measured", x, noiseVar]]) {
      const line = box.querySelector(`[data-bar=${name}]`);
      line.setAttribute("x1", at(centre - Math.sqrt(variance)));
      line.setAttribute("x2", at(centre + Math.sqrt(variance)));
    }
    box.querySelector(".toy-bayes").setAttribute("cx", at(estimates[0]));
    box.querySelector(".toy-printed").setAttribute("transform", `translate(${at(estimates[1])} ${row.printed})`);
    const found = `Eq. (1) estimates ${estimates[0].toFixed(2)}, section 6 estimates ${estimates[1].toFixed(2)}.`;
    box.querySelector("output").textContent = found;
    box.querySelector("svg").setAttribute("aria-label", `Neighbour mean ${m}, measurement ${x}. ${found}`);
  }
  box.addEventListener("input", show);
  show();
  figure.before(box);
}
