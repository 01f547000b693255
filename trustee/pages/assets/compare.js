// Runs beside each other: curves, held-out success, settings.

import { ask } from './ask.js';
import { intervals, lineChart } from './charts.js';
import { CHARTS } from './curves.js';
import { h, place, put } from './dom.js';
import { pill } from './runs.js';
import { line, percent, signed } from './words.js';

const SINGLE = new Set(['reward', 'interim', 'difficulty', 'mixed', 'clipped', 'mismatch', 'memory', 'entropy', 'loss', 'grad_norm', 'completion_tokens']);

export async function compareView(context, ids) {
  const { page, signal, showPlace } = context;
  showPlace(['runs', '#/'], ['compare']);
  if (ids.length < 2) throw new Error('Choose two or more runs in the list.');
  const [found, ...figures] = await Promise.all([ask('compare', { run: ids }, signal), ...ids.map((id) => ask(`runs/${id}/steps`, { after: -1 }, signal))]);
  const names = found.runs.map((run) => run.place);
  const key = (at) => h('i', { class: `key c${at % 8}` });
  const charts = CHARTS.filter((chart) => SINGLE.has(chart.key)).map((chart) => {
    const card = lineChart({ ...chart, limit: undefined, shade: false });
    const series = figures.map((one, at) => ({ ...chart.of(one.steps, found.runs[at])[0], name: names[at], colour: at })).filter((one) => one.points?.some((point) => Number.isFinite(point.y)));
    return series.length ? [card, series] : null;
  }).filter(Boolean);
  const measured = found.runs.map((run, at) => ({ run, at })).filter(({ run }) => run.trained);
  const pairings = found.pairings.map((one, at) => ({ ...one, name: names[at + 1], at: at + 1 }));
  put(page, h('div', { class: 'headline' }, h('h1', null, `${ids.length} runs`)),
    h('ul', { class: 'compared' }, found.runs.map((run, at) => h('li', null, key(at), h('a', { href: place(['run', run.id]) }, run.place), pill(run)))),
    h('section', { class: 'panel' }, h('h2', null, 'Success on held-out tasks'), measured.length ? intervals(measured.map(({ run, at }) => ({ name: run.place, value: run.trained.value, low: run.trained.low, high: run.trained.high, colour: at, text: `${percent(run.trained.low, 0)} to ${percent(run.trained.high, 0)}, ${run.trained.count} tasks` })), { format: (value) => percent(value) }) : h('p', { class: 'quiet' }, 'None of these runs has measured it yet.'),
      h('h2', null, `Against ${names[0]}, on the tasks that both played, in points`),
      pairings.map((one) => (one.pairing ? [intervals([{ name: one.name, value: one.pairing.gain.points, low: one.pairing.gain.low, high: one.pairing.gain.high, colour: one.at, text: `${signed(one.pairing.gain.low, 1)} to ${signed(one.pairing.gain.high, 1)}` }], { from: -100, to: 100, zero: 0, format: (value) => signed(value, 1) }), h('p', { class: 'quiet' }, `${one.pairing.shared} tasks in common; ${one.pairing.gain.better} only ${one.name} solves, ${one.pairing.gain.worse} only ${names[0]}`)] : h('p', { class: 'quiet' }, `${one.name} and ${names[0]} share no held-out task.`)))),
    h('div', { class: 'charts' }, charts.map(([card]) => card)),
    h('section', { class: 'panel' }, h('h2', null, 'Settings that differ'), found.different.length ? h('div', { class: 'scroll' }, h('table', { class: 'keys differ' }, h('thead', null, h('tr', null, h('th', null, ''), names.map((name, at) => h('th', null, key(at), name)))), h('tbody', null, found.different.map((row) => h('tr', null, h('th', null, row.key), row.values.map((value) => h('td', value.length ? null : { class: 'quiet', title: 'a setting that this version had not' }, value.length ? line(value[0]) : '–'))))))) : h('p', { class: 'quiet' }, 'None.'), h('p', { class: 'quiet' }, `${found.same} settings are the same.`)));
  for (const [card, series] of charts) card.show({ series });
}
