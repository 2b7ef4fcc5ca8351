"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const { colours, studies } = JSON.parse($("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const palette = bytes(colours); // 256 colours, of 0 to twice the model's threshold
  const list = [...document.querySelectorAll(".entry")];
  const SIDE = 640; // longest side of the drawing in pixels

  // The list, here or of an index: one stop for Tab, arrow keys within.
  const focusEntry = (to) => {
    const at = Math.max(0, Math.min(list.length - 1, to));
    list.forEach((entry, i) => (entry.tabIndex = i === at ? 0 : -1));
    list[at].focus();
  };
  list.forEach((entry, i) => {
    entry.tabIndex = i ? -1 : 0;
    entry.addEventListener("keydown", (event) => {
      const to = { ArrowDown: i + 1, ArrowUp: i - 1, PageDown: i + 10, PageUp: i - 10, Home: 0, End: list.length - 1 };
      if (event.key in to) {
        event.preventDefault();
        focusEntry(to[event.key]);
      }
    });
  });
  if (!Object.keys(studies).length) return;

  const canvas = $("image"), context = canvas.getContext("2d"), over = document.createElement("canvas");
  const numberOf = (link) => link.hash.slice("#study-".length);
  let study, at, picture, ring, wanted = 0, byKey = false;

  const short = (value) => String(Number(value.toPrecision(3)));
  const isOver = (s) => s.score !== null && s.threshold !== null && s.score > s.threshold;

  // Bilinear weights from a row of cells to a row of pixels.
  const steps = (cells, pixels) =>
    Array.from({ length: pixels }, (_, i) => {
      const place = Math.max(0, Math.min(cells - 1, ((i + 0.5) * cells) / pixels - 0.5));
      const low = Math.min(Math.floor(place), Math.max(0, cells - 2));
      return [low, Math.min(low + 1, cells - 1), place - low];
    });

  // The colours of a map, as the heatmaps have them: clear up to the threshold, full at one and a half times it.
  const heat = (cells, rows, columns, width, height) => {
    const limit = Number($("threshold").value), opacity = Number($("opacity").value) / 100;
    const image = new ImageData(width, height), pixels = image.data;
    const across = steps(columns, width), down = steps(rows, height);
    const inside = new Uint8Array(width * height);
    for (let y = 0, k = 0; y < height; y++) {
      const [top, bottom, v] = down[y], a = top * columns, b = bottom * columns;
      for (let x = 0; x < width; x++, k++) {
        const [left, right, u] = across[x];
        const upper = cells[a + left] * (1 - u) + cells[a + right] * u;
        const lower = cells[b + left] * (1 - u) + cells[b + right] * u;
        const value = upper * (1 - v) + lower * v, ratio = value / 127.5;
        if (ratio <= limit && !(limit >= 2 && value >= 255)) continue;
        inside[k] = 1;
        const colour = 3 * Math.round(value);
        pixels.set(palette.subarray(colour, colour + 3), 4 * k);
        pixels[4 * k + 3] = 255 * opacity * Math.min(1, 1 / 3 + ((ratio / limit - 1) * 2) / 3 / 0.5);
      }
    }
    if (opacity > 0) {
      for (let y = 0, k = 0; y < height; y++) {
        for (let x = 0; x < width; x++, k++) {
          const edge = (x + 1 < width && inside[k] !== inside[k + 1]) || (y + 1 < height && inside[k] !== inside[k + width]);
          if (edge) pixels.set([70, 225, 255, 255], 4 * k);
        }
      }
    }
    return image;
  };

  const paint = () => {
    const slice = study.slices[at];
    const scale = SIDE / Math.max(picture.naturalWidth, picture.naturalHeight);
    canvas.width = over.width = Math.max(1, Math.round(picture.naturalWidth * scale));
    canvas.height = over.height = Math.max(1, Math.round(picture.naturalHeight * scale));
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    if (slice.rows) {
      const image = heat(bytes(slice.cells), slice.rows, slice.columns, over.width, over.height);
      over.getContext("2d").putImageData(image, 0, 0);
      context.drawImage(over, 0, 0);
    }
    if (ring && slice.peak) {
      for (const [colour, width] of [["#000", 6], ["#fff", 3]]) {
        context.beginPath();
        context.arc(slice.peak[0] * canvas.width, slice.peak[1] * canvas.height, SIDE / 14, 0, 2 * Math.PI);
        context.strokeStyle = colour;
        context.lineWidth = width;
        context.stroke();
      }
    }
  };

  const load = () => {
    const slice = study.slices[at], mine = ++wanted;
    $("nothing").hidden = Boolean(slice.picture);
    if (!slice.picture) {
      picture = null;
      context.clearRect(0, 0, canvas.width, canvas.height);
      return;
    }
    const image = new Image();
    image.onload = () => {
      if (mine !== wanted) return; // another slice was asked for meanwhile
      picture = image;
      paint();
      canvas.dataset.shown = `${at}`;
    };
    image.src = `data:image/jpeg;base64,${slice.picture}`;
  };

  const tell = () => {
    const slice = study.slices[at], count = study.slices.length;
    const place = count > 1 ? `slice ${at + 1} of ${count}` : "one image";
    const parts = [slice.source ? `${place}: ${slice.source}, slice ${slice.index + 1}` : place];
    if (slice.status !== "scored") parts.push(`not scored: ${slice.status}${slice.reason ? `, ${slice.reason}` : ""}`);
    if (slice.score !== null) {
      const verdict = slice.threshold === null ? "" : `, ${isOver(slice) ? "above" : "not above"} the threshold of ${short(slice.threshold)}`;
      parts.push(`${study.quantity} ${short(slice.score)}${verdict}`);
    }
    if (slice.p !== null) parts.push(`p\u00a0=\u00a0${short(slice.p)}`);
    $("readout").textContent = parts.join(" · ");
    canvas.setAttribute("aria-label", parts.join(", "));
    $("slice").value = at + 1;
    $("slice-value").textContent = `${at + 1} / ${count}`;
  };

  // The curve: score by slice, gaps where there is none.
  const SVG = "http://www.w3.org/2000/svg", LEFT = 40, RIGHT = 8, TOP = 10, BOTTOM = 20;
  const add = (name, attributes, text) => {
    const node = document.createElementNS(SVG, name);
    Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
    if (text !== undefined) node.textContent = text;
    return $("curve").appendChild(node);
  };
  const across = (i) => LEFT + ((i + 0.5) / study.slices.length) * ($("curve").getBoundingClientRect().width - LEFT - RIGHT);
  const curve = () => {
    const svg = $("curve"), { width, height } = svg.getBoundingClientRect(), { slices } = study;
    svg.replaceChildren();
    const values = slices.flatMap((s) => [s.score, s.threshold]).filter((v) => v !== null);
    if (slices.length < 2 || !values.length || !width) return;
    const low = Math.min(0, ...values), high = Math.max(...values, low + 1e-9);
    const up = (v) => height - BOTTOM - ((v - low) / (high - low)) * (height - TOP - BOTTOM);
    const path = (key) => slices.map((s, i) => (s[key] === null ? "" : `${i && slices[i - 1][key] !== null ? "L" : "M"}${across(i).toFixed(1)} ${up(s[key]).toFixed(1)}`)).join("");
    add("line", { class: "here", id: "here", y1: 0, y2: height - BOTTOM });
    add("path", { class: "score", d: path("score") });
    add("path", { class: "limit", d: path("threshold") });
    slices.forEach((s, i) => {
      if (s.score !== null) add("circle", { class: isOver(s) ? "dot over" : "dot", cx: across(i), cy: up(s.score), r: slices.length > 80 ? 1.5 : 2.5 });
    });
    [low, high].forEach((v) => add("text", { x: LEFT - 5, y: up(v) + 4, "text-anchor": "end" }, short(v)));
    add("text", { x: LEFT, y: height - 5 }, "slice 1");
    add("text", { x: width - RIGHT, y: height - 5, "text-anchor": "end" }, slices.length);
    mark();
  };
  const mark = () => ["x1", "x2"].forEach((key) => $("here")?.setAttribute(key, across(at)));

  const turn = (to) => {
    at = Math.max(0, Math.min(study.slices.length - 1, to));
    ring = false;
    load();
    tell();
    mark();
  };
  const hottest = () => {
    turn(study.first);
    ring = true;
  };
  const nextAbove = () => {
    const count = study.slices.length;
    for (let step = 1; step <= count; step++) {
      if (isOver(study.slices[(at + step) % count])) return turn((at + step) % count);
    }
  };

  const show = () => {
    const asked = numberOf(location), number = Object.hasOwn(studies, asked) ? asked : numberOf(list[0]);
    document.querySelectorAll("article").forEach((article) => (article.hidden = article.id !== `study-${number}`));
    list.forEach((entry) => {
      const chosen = numberOf(entry) === number;
      entry.setAttribute("aria-current", chosen);
      entry.tabIndex = chosen ? 0 : -1;
    });
    study = studies[number];
    $(`study-${number}`).querySelector(".place").append($("viewer"));
    $("viewer").hidden = false;
    document.querySelectorAll(".stack").forEach((part) => (part.hidden = study.slices.length < 2));
    $("slice").max = study.slices.length;
    $("curve-title").textContent = `${study.quantity} by slice; dashed: threshold of a slice; click to go there`;
    at = study.first;
    curve();
    turn(at);
    if (byKey) canvas.focus({ preventScroll: true });
    byKey = false;
  };

  const sliders = () => {
    $("opacity-value").textContent = `${$("opacity").value} %`;
    $("threshold-value").textContent = `${Number($("threshold").value).toFixed(2)} ×`;
    $("legend").getContext("2d").putImageData(heat(Uint8Array.from({ length: 256 }, (_, i) => i), 1, 256, 256, 14), 0, 0);
    if (picture) paint();
  };
  ["opacity", "threshold"].forEach((id) => $(id).addEventListener("input", sliders));
  $("slice").addEventListener("input", () => turn($("slice").value - 1));
  $("hottest").addEventListener("click", hottest);
  $("above").addEventListener("click", nextAbove);
  $("curve").addEventListener("pointerdown", (event) => {
    $("curve").setPointerCapture(event.pointerId);
    pick(event);
  });
  $("curve").addEventListener("pointermove", (event) => event.buttons && pick(event));
  const pick = (event) => {
    const box = $("curve").getBoundingClientRect();
    turn(Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * study.slices.length));
  };

  // Wheel and drag: one slice for each notch, or for so many pixels of a smooth one.
  let rolled = 0, dragged = null;
  canvas.addEventListener("wheel", (event) => {
    if (study.slices.length < 2 || event.ctrlKey) return;
    event.preventDefault();
    const pixels = event.deltaMode ? 50 * event.deltaY : event.deltaY;
    rolled = Math.sign(pixels) === Math.sign(rolled) ? rolled + pixels : pixels;
    if (Math.abs(rolled) >= 40) {
      turn(at + Math.sign(rolled) * Math.max(1, Math.trunc(Math.abs(rolled) / 120)));
      rolled = 0;
    }
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    dragged = [event.clientY, at];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged || !event.buttons) return;
    const pixels = Math.max(4, canvas.clientHeight / study.slices.length);
    const to = dragged[1] + Math.trunc((event.clientY - dragged[0]) / Math.min(pixels, 24));
    if (to !== at) turn(to);
  });
  ["pointerup", "pointercancel"].forEach((name) => canvas.addEventListener(name, () => (dragged = null)));

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const last = study.slices.length - 1;
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: last };
    const act = { h: hottest, n: nextAbove, Escape: () => focusEntry(list.findIndex((e) => e.getAttribute("aria-current") === "true")) };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!(key in to) && !(key in act)) return;
    event.preventDefault();
    key in to ? turn(to[key]) : act[key]();
  });
  list.forEach((entry) => entry.addEventListener("click", (event) => {
    event.preventDefault();
    byKey = event.detail === 0;
    if (location.hash === entry.hash) show();
    else location.hash = entry.hash;
  }));
  window.addEventListener("hashchange", show);
  new ResizeObserver(curve).observe($("curve"));
  show();
  sliders();
})();
