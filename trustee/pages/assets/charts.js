// Small charts: lines, stacked areas, intervals, sparklines. All are SVG, drawn to their width.

import { h, put, s } from './dom.js';
import { number } from './words.js';

const HEIGHT = 168;
const MARGIN = { right: 12, top: 14, bottom: 22 };
const LETTER = 6.2;
const hovered = new EventTarget();
const widths = new ResizeObserver((entries) => {
  for (const entry of entries) entry.target.dispatchEvent(new CustomEvent('width'));
});

/** Return round numbers between two values. */
export function ticks(low, high, wanted = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) || 10);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}

function bounds(series, { low, high, limit }) {
  let least = low ?? Infinity;
  let most = high ?? -Infinity;
  for (const { points } of series) {
    for (const { y } of points) {
      if (Number.isFinite(y)) {
        if (low === undefined) least = Math.min(least, y);
        if (high === undefined || high < y) most = Math.max(most, y);
      }
    }
  }
  if (!Number.isFinite(least)) least = 0;
  if (!Number.isFinite(most)) most = least + 1;
  // A limit far above all values would make them one flat line; where all are zero, it gives the scale.
  if (limit !== undefined && (limit <= 3 * most || most <= least)) most = Math.max(most, limit * 1.1);
  if (most - least < 1e-9) {
    const pad = Math.abs(most) * 0.1 || 1;
    return [low ?? least - pad, most + pad];
  }
  const pad = (most - least) * 0.08;
  return [low ?? least - pad, high !== undefined && high >= most ? high : most + pad];
}

/** Return ticks as text, all with as many digits as the finest of them needs. */
export function labels(values, format) {
  if (format !== number || values.length < 2) return values.map((value) => format(value));
  const step = values[1] - values[0];
  for (let digits = 0; digits < 6; digits += 1) {
    if (values.every((value) => Math.abs(Number(value.toFixed(digits)) - value) < step / 1000)) return values.map((value) => (digits ? value.toFixed(digits) : format(value)));
  }
  return values.map((value) => format(value));
}

function path(points, x, y) {
  // A step without a value is passed over: some figures exist only where something was fresh.
  return points
    .filter((point) => Number.isFinite(point.y))
    .map((point, at) => `${at ? 'L' : 'M'}${x(point.x).toFixed(1)} ${y(point.y).toFixed(1)}`)
    .join('');
}

/**
 * Return a chart of lines over steps; `chart.show({series, marks})` draws what is known now.
 *
 * series: [{name, points: [{x, y}], dashed}]; marks: [{x, kind, text}]; limit: a line not to cross.
 */
export function lineChart({ title, hint, low, high, format = number, limit, limitName, stacked = false, shade = true, wide = false }) {
  const now = h('span', { class: 'now' });
  const legend = h('span', { class: 'legend' });
  const area = h('div', { class: 'plot' });
  const tip = h('div', { class: 'tip', hidden: true });
  const card = h('figure', { class: wide ? 'chart wide' : 'chart' }, h('figcaption', null, h('span', { class: 'name', title: hint || '' }, title), now), area, legend, tip);
  let shown = { series: [], marks: [] };
  let draw = { x: null, xs: [] };

  function paint() {
    const width = Math.max(200, area.clientWidth || 320);
    const drawn = stacked ? pile(shown.series) : shown.series;
    const points = shown.series.flatMap((one) => one.points);
    if (!points.some((point) => Number.isFinite(point.y))) {
      put(area, h('p', { class: 'nothing' }, 'nothing yet'));
      put(now);
      put(legend);
      draw = { x: null, xs: [] };
      return;
    }
    const xs = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b);
    const [first, last] = [xs[0], xs.at(-1) === xs[0] ? xs[0] + 1 : xs.at(-1)];
    const [least, most] = bounds(drawn, { low: stacked ? 0 : low, high, limit });
    const places = ticks(least, most);
    const texts = labels(places, format);
    const names = places.map((at, index) => [at, texts[index]]);
    const EDGE = { ...MARGIN, left: Math.max(30, 12 + LETTER * Math.max(...names.map(([, name]) => name.length))) };
    const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
    const x = (value) => EDGE.left + ((value - first) / (last - first)) * inner.width;
    const y = (value) => EDGE.top + (1 - (value - least) / (most - least)) * inner.height;
    const svg = s('svg', { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: 'img', 'aria-label': summary(title, shown.series, format) });
    for (const [at, name] of names) {
      svg.append(s('line', { class: 'grid', x1: EDGE.left, x2: width - EDGE.right, y1: y(at), y2: y(at) }), s('text', { class: 'axis', x: EDGE.left - 6, y: y(at) + 3.5, 'text-anchor': 'end' }, name));
    }
    for (const at of ticks(first, last, Math.max(2, Math.floor(inner.width / 55))).filter(Number.isInteger)) {
      svg.append(s('text', { class: 'axis', x: x(at), y: HEIGHT - 6, 'text-anchor': 'middle' }, String(at)));
    }
    if (limit !== undefined && limit >= least && limit <= most) {
      svg.append(s('line', { class: 'limit', x1: EDGE.left, x2: width - EDGE.right, y1: y(limit), y2: y(limit) }), s('text', { class: 'axis limit', x: width - EDGE.right, y: y(limit) - 4, 'text-anchor': 'end' }, limitName || 'limit'));
    }
    for (const mark of shown.marks) {
      if (mark.x < first || mark.x > last) continue;
      svg.append(s('line', { class: `mark ${mark.kind}`, x1: x(mark.x), x2: x(mark.x), y1: EDGE.top - 6, y2: HEIGHT - EDGE.bottom }, s('title', null, mark.text)), s('circle', { class: `mark ${mark.kind}`, cx: x(mark.x), cy: EDGE.top - 6, r: 4 }, s('title', null, mark.text)));
    }
    drawn.forEach((one, at) => {
      const known = one.points.filter((point) => Number.isFinite(point.y));
      const colour = `c${(one.colour ?? at) % 8}`;
      if (stacked) {
        const back = [...known].reverse().map((point) => `L${x(point.x).toFixed(1)} ${y(point.base).toFixed(1)}`).join('');
        if (known.length > 1) svg.append(s('path', { class: `pile ${colour}`, d: `${path(known, x, y)}${back}Z` }));
      } else if (shade && shown.series.length === 1 && known.length > 1) {
        const floor = y(Math.max(least, Math.min(most, low ?? least)));
        svg.append(s('path', { class: `shade ${colour}`, d: `${path(known, x, y)}L${x(known.at(-1).x).toFixed(1)} ${floor}L${x(known[0].x).toFixed(1)} ${floor}Z` }));
      }
      svg.append(s('path', { class: `line ${colour}${one.dashed ? ' dashed' : ''}`, d: path(one.points, x, y) }));
      if (known.length < 25 || one.dots) for (const point of known) svg.append(s('circle', { class: `dot ${colour}`, cx: x(point.x), cy: y(point.y), r: one.dots ? 4 : 2.2 }));
      if (one.bars) for (const point of known) svg.append(s('line', { class: `bar ${colour}`, x1: x(point.x), x2: x(point.x), y1: y(point.low), y2: y(point.high) }));
    });
    const cross = s('line', { class: 'cross', y1: EDGE.top, y2: HEIGHT - EDGE.bottom, visibility: 'hidden' });
    svg.append(cross);
    put(area, svg);
    draw = { x, xs, cross, width };
    const newest = shown.series.length === 1 ? shown.series[0].points.findLast((point) => Number.isFinite(point.y)) : null;
    put(now, newest ? format(newest.y) : '');
    put(legend, shown.series.length > 1 ? shown.series.map((one, at) => h('span', null, h('i', { class: `key c${(one.colour ?? at) % 8}` }), one.name)) : null);
  }

  area.addEventListener('pointermove', (event) => {
    if (!draw.x) return;
    const left = area.getBoundingClientRect().left;
    const nearest = draw.xs.reduce((best, at) => (Math.abs(draw.x(at) - (event.clientX - left)) < Math.abs(draw.x(best) - (event.clientX - left)) ? at : best), draw.xs[0]);
    hovered.dispatchEvent(new CustomEvent('step', { detail: { x: nearest, from: card } }));
  });
  area.addEventListener('pointerleave', () => hovered.dispatchEvent(new CustomEvent('step', { detail: null })));
  const point = (event) => {
    if (!card.isConnected) {
      hovered.removeEventListener('step', point);
      return;
    }
    tip.hidden = true;
    if (!draw.x) return;
    draw.cross.setAttribute('visibility', event.detail ? 'visible' : 'hidden');
    if (!event.detail) return;
    const at = draw.x(event.detail.x);
    draw.cross.setAttribute('x1', at);
    draw.cross.setAttribute('x2', at);
    if (event.detail.from !== card) return;
    const rows = shown.series.map((one, place) => [one, place, one.points.find((p) => p.x === event.detail.x)]).filter(([, , found]) => found && Number.isFinite(found.y));
    const near = shown.marks.filter((mark) => Math.abs(mark.x - event.detail.x) <= 0.5);
    put(tip, h('b', null, `step ${event.detail.x}`), rows.map(([one, place, found]) => h('div', null, h('i', { class: `key c${(one.colour ?? place) % 8}` }), `${one.name} `, h('b', null, format(found.y)))), near.map((mark) => h('div', { class: `said ${mark.kind}` }, mark.text)));
    tip.hidden = false;
    tip.style.left = `${at > draw.width / 2 ? Math.max(0, at - tip.offsetWidth - 8) : at + 12}px`;
  };
  hovered.addEventListener('step', point);
  area.addEventListener('width', paint);
  widths.observe(area);
  card.show = (given) => {
    shown = { series: given.series, marks: given.marks || [] };
    paint();
  };
  return card;
}

function pile(series) {
  const heights = new Map();
  return series.map((one) => ({
    ...one,
    points: one.points.map(({ x, y }) => {
      const base = heights.get(x) || 0;
      heights.set(x, base + (Number.isFinite(y) ? y : 0));
      return { x, y: heights.get(x), base };
    }),
  }));
}

function summary(title, series, format) {
  const said = series.map((one) => {
    const known = one.points.filter((point) => Number.isFinite(point.y));
    return known.length ? `${one.name} from ${format(known[0].y)} to ${format(known.at(-1).y)}` : `${one.name} unknown`;
  });
  return `${title}: ${said.join('; ')}`;
}

/** Return a line without axes, for a table. */
export function sparkline(values, { width = 120, height = 28, label = 'reward by step' } = {}) {
  const known = values.map((y, x) => ({ x, y })).filter((point) => Number.isFinite(point.y));
  const svg = s('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, width, height, role: 'img', 'aria-label': known.length ? `${label}, from ${number(known[0].y)} to ${number(known.at(-1).y)}` : `no ${label}` });
  if (known.length === 0) return svg;
  const least = Math.min(...known.map((point) => point.y));
  const most = Math.max(...known.map((point) => point.y));
  const x = (at) => 3 + (at / Math.max(1, values.length - 1)) * (width - 6);
  const y = (at) => height - 4 - (most > least ? (at - least) / (most - least) : 0.5) * (height - 8);
  svg.append(s('path', { class: 'line c0', d: path(known, x, y) }), s('circle', { class: 'dot c0', cx: x(known.at(-1).x), cy: y(known.at(-1).y), r: 2.5 }));
  return svg;
}

/**
 * Return shares or differences with their intervals, one row each.
 *
 * rows: [{name, value, low, high, text, colour}]; from, to: the scale; zero: a line to compare with.
 */
export function intervals(rows, { from = 0, to = 1, format, zero }) {
  const x = (value) => 100 * Math.max(0, Math.min(1, (value - from) / (to - from)));
  return h('div', { class: 'intervals' }, rows.map((row, at) => h('div', { class: 'interval' }, h('span', { class: 'who' }, row.name), s('svg', { viewBox: '0 0 100 16', preserveAspectRatio: 'none', height: 16, role: 'img', 'aria-label': `${row.name}: ${row.text}` }, s('line', { class: 'rail', x1: 0, x2: 100, y1: 8, y2: 8 }), zero === undefined ? null : s('line', { class: 'zero', x1: x(zero), x2: x(zero), y1: 0, y2: 16 }), s('line', { class: `span c${row.colour ?? at}`, x1: x(row.low), x2: x(row.high), y1: 8, y2: 8 }), s('line', { class: `value c${row.colour ?? at}`, x1: x(row.value), x2: x(row.value), y1: 2, y2: 14 })), h('b', null, format(row.value)), h('span', { class: 'quiet' }, row.text))));
}
