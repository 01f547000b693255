// One episode as a conversation, and the members of a group side by side.

import { ask } from './ask.js';
import { h, place, put } from './dom.js';
import { rewardChip } from './episodes.js';
import { line, number, percent, reward, words } from './words.js';

const LONG = 600;
const FILES = { before: 'before training', after: 'after training', base: 'the base', adapter: 'the adapter' };

export async function episodeView(context, id, file, row) {
  const { page, signal, showPlace } = context;
  const [run, episode] = await Promise.all([ask(`runs/${id}`, {}, signal), ask(`runs/${id}/episodes/${file}/${row}`, {}, signal)]);
  const { figures, trajectory } = episode;
  const name = trajectory.id || String(row);
  showPlace(['runs', '#/'], [run.place, place(['run', id])], ['episodes', place(['run', id, 'episodes', file])], [name]);
  const shades = h('button', { 'aria-pressed': 'false', title: 'shade each sampled token by how likely it was' }, 'Shade by probability');
  const talk = h('div', { class: 'talk' });
  const step = (to, text, key) => h('a', { class: 'button', href: place(['run', id, 'episode', file, Math.max(0, Math.min(episode.episodes - 1, to))]), 'data-key': key, 'aria-disabled': to < 0 || to >= episode.episodes ? 'true' : null }, text);
  put(page,
    h('div', { class: 'headline' }, h('h1', null, `Episode ${name} `, rewardChip(figures)), h('div', { class: 'actions' }, step(row - 1, '← before', 'before'), step(row + 1, 'next →', 'next'))),
    facts(id, file, episode),
    h('div', { class: 'episode' }, h('section', { class: 'panel' }, h('div', { class: 'headline' }, h('h2', null, 'Conversation'), shades), talk), h('aside', null, verdict(trajectory, episode.rejected), hidden(episode.task), tools(episode.task))));
  const paint = (tokens) => put(talk, conversation(episode.task, trajectory, tokens));
  paint(null);
  let tokens = null;
  shades.addEventListener('click', async () => {
    const isOn = shades.getAttribute('aria-pressed') === 'true';
    shades.setAttribute('aria-pressed', String(!isOn));
    if (isOn) {
      paint(null);
      return;
    }
    try {
      tokens ??= await ask(`runs/${id}/episodes/${file}/${row}/tokens`, {}, signal);
      paint(tokens);
    } catch (error) {
      put(talk, h('p', { class: 'banner warn' }, error.message));
    }
  });
}

function facts(id, file, episode) {
  const { figures, trajectory, task } = episode;
  const found = [`step ${figures.version + 1}, played by version ${figures.version}`, `ended: ${line(trajectory.stop)}`, `${figures.turns} turn${figures.turns === 1 ? '' : 's'}, ${number(figures.tokens)} token${figures.tokens === 1 ? '' : 's'}`];
  if (task) found.push(`difficulty ${line(task.difficulty)}`);
  if (figures.blame) found.push(`blame: ${figures.blame}`);
  return h('p', { class: 'quiet facts' }, found.join(' · '),
    episode.members.length > 1 ? [' · ', h('a', { href: place(['run', id, 'group', file, figures.group]) }, `${episode.members.length} members of group ${figures.group} side by side`)] : null,
    Object.entries(episode.others).map(([name, other]) => [' · ', h('a', { href: place(['run', id, 'episode', name, other]) }, `the same task, ${FILES[name]}`)]));
}

/** Return an episode's messages. */
export function conversation(task, trajectory, tokens) {
  const found = [];
  for (const message of task?.messages || []) found.push(bubble(message));
  if (!task) found.push(h('p', { class: 'quiet' }, 'The task of this episode is not in the run folder.'));
  const phases = trajectory.outcome?.trial?.phases || [];
  (trajectory.turns || []).forEach((turn, at) => {
    if (phases[at] && phases[at] !== phases[at - 1]) found.push(h('h3', { class: 'phase' }, phases[at]));
    const sampled = tokens ? tokens.turns[at] : null;
    found.push(sampled ? shaded(sampled) : bubble(turn.message, turn.completion));
    for (const reply of turn.replies || []) found.push(bubble(reply));
  });
  if (trajectory.failure) found.push(h('p', { class: 'banner warn' }, `no reward: ${trajectory.failure.source} failed (${trajectory.failure.kind}): ${trajectory.failure.message}`));
  if (tokens) {
    found.unshift(h('p', { class: 'quiet scale' }, 'probability of each sampled token: ', [0.05, 0.3, 0.6, 0.9, 1].map((p) => h('span', { class: `token p${bucket(Math.log(p))}` }, percent(p, 0)))));
    if (tokens.problem) found.unshift(h('p', { class: 'banner' }, tokens.problem));
  }
  return found;
}

function bubble(message, completion) {
  const role = message?.role || 'unknown';
  const parts = [];
  if (message.thinking) parts.push(h('details', { class: 'thinking' }, h('summary', null, 'thinking'), h('pre', null, message.thinking)));
  if (message.content || !(message.calls || []).length) parts.push(role === 'tool' ? result(message.content) : long(message.content || ''));
  for (const call of message.calls || []) {
    parts.push(call.type === 'bad' ? h('div', { class: 'call bad' }, h('b', null, 'a call that cannot be read'), h('p', null, call.reason), h('pre', null, call.text)) : h('div', { class: 'call' }, h('b', null, call.name), h('div', { class: 'arguments' }, Object.entries(call.arguments || {}).map(([key, value]) => [h('span', null, key), h('code', null, typeof value === 'string' ? value : JSON.stringify(value))]))));
  }
  if (completion?.stop === 'length') parts.push(h('p', { class: 'cut' }, 'cut off by the token limit'));
  return h('div', { class: `bubble ${role}` }, h('span', { class: 'who' }, role), parts);
}

function long(text) {
  if (text.length <= LONG) return h('p', { class: 'text' }, text);
  return h('details', { class: 'long' }, h('summary', null, `${text.slice(0, 240)}… `, h('span', { class: 'quiet' }, `${number(text.length)} letters`)), h('p', { class: 'text' }, text));
}

function result(text) {
  let shown = text || '';
  try {
    shown = JSON.stringify(JSON.parse(text), null, 1).replace(/\n\s*/g, ' ');
  } catch {
    // It is not JSON, and is shown as it is.
  }
  return shown.length > LONG ? h('details', { class: 'long' }, h('summary', null, h('code', null, `${shown.slice(0, 160)}…`)), h('pre', null, text)) : h('pre', null, shown);
}

const bucket = (logprob) => {
  const p = Math.exp(logprob);
  return p > 0.95 ? 4 : p > 0.75 ? 3 : p > 0.45 ? 2 : p > 0.15 ? 1 : 0;
};

function shaded(sampled) {
  return h('div', { class: 'bubble assistant tokens' }, h('span', { class: 'who' }, 'assistant, as sampled'), h('p', { class: 'text' }, sampled.map(([text, logprob]) => h('span', { class: `token p${bucket(logprob)}`, title: `${JSON.stringify(text)}: ${percent(Math.exp(logprob), 1)} (${number(logprob)} nats)` }, text))));
}

/** Return the reward and what it was given for. */
function verdict(trajectory, rejected) {
  const outcome = trajectory.outcome || {};
  const notes = { ...(trajectory.notes || {}) };
  const evidence = notes.evidence;
  delete notes.evidence;
  const perCriterion = evidence && typeof evidence === 'object' && !Array.isArray(evidence) ? evidence : {};
  const told = typeof evidence === 'string' ? evidence : Array.isArray(evidence) ? evidence.map(line).join('\n') : '';
  const factLines = notes.facts;
  delete notes.facts;
  const rewards = Object.entries(trajectory.rewards || {});
  return h('section', { class: 'panel' }, h('h2', null, 'Verdict'),
    trajectory.failure ? h('p', { class: 'quiet' }, 'No reward, because something other than the policy failed.') : h('table', { class: 'keys' }, h('tbody', null, rewards.map(([name, value]) => h('tr', null, h('th', null, words(name)), h('td', null, h('b', { class: value > 0 ? 'good' : value < 0 ? 'bad' : '' }, reward(value))))))),
    Object.keys(outcome.criteria || {}).length ? h('table', { class: 'criteria' }, h('thead', null, h('tr', null, h('th', null, 'criterion'), h('th', null, 'evidence'))), h('tbody', null, Object.entries(outcome.criteria).map(([name, holds], at) => h('tr', null, h('th', { class: holds ? 'good' : 'bad' }, h('span', { 'aria-label': holds ? 'holds' : 'does not hold' }, holds ? '✓ ' : '✗ '), words(name)), h('td', null, perCriterion[name] ? line(perCriterion[name]) : at === 0 && told ? told : h('span', { class: 'quiet' }, 'see above')))))) : told ? h('p', { class: 'text' }, told) : null,
    h('p', { class: 'quiet' }, outcome.asked_judge === true ? 'The judge was asked.' : outcome.criteria ? 'Settled by code; the judge was not asked.' : '', outcome.judged !== undefined && outcome.judged !== null ? ` The judge would have given ${reward(outcome.judged)}.` : '', rejected ? ` Not kept: ${rejected}.` : ''),
    outcome.solve ? solve(outcome.solve) : null,
    outcome.trial ? trial(outcome.trial) : null,
    factLines ? h('details', null, h('summary', null, 'facts that code found'), h('pre', null, typeof factLines === 'string' ? factLines : JSON.stringify(factLines, null, 1))) : null,
    Object.entries(notes).filter(([, value]) => value !== '' && !(value && typeof value === 'object' && Object.keys(value).length === 0)).map(([name, value]) => h('details', null, h('summary', null, words(name)), h('pre', null, typeof value === 'string' ? value : JSON.stringify(value, null, 1)))));
}

function solve(found) {
  return h('div', null, h('p', null, `Solved ${found.solved} of ${found.needed} in ${found.calls} calls: precision ${number(found.precision)}, recall ${number(found.recall)}, F1 ${number(found.f1)}${found.answered ? '; the answer is right' : ''}`), h('ul', { class: 'called' }, (found.called || []).map((call) => h('li', { class: call.ok ? 'good' : 'bad' }, call.name || 'unreadable', call.solved ? ` → ${call.solved}` : '', call.breach ? ` (${call.breach})` : ''))));
}

function trial(found) {
  return h('details', null, h('summary', null, `trial phase: ${(found.attempts || []).filter((one) => one.phase === 'trial').length} calls`), found.note ? h('p', { class: 'text' }, found.note) : null, h('ul', null, (found.attempts || []).map((one, at) => h('li', null, `${one.phase}: ${one.name || 'unreadable'} `, h('span', { class: 'tag' }, found.labels?.[at] || ''), one.failed ? ' failed' : ''))));
}

function hidden(task) {
  if (!task || !Object.keys(task.hidden || {}).length) return null;
  return h('details', { class: 'panel' }, h('summary', null, h('h2', null, 'Hidden from the policy')), Object.entries(task.hidden).map(([name, value]) => h('div', { class: 'hidden' }, h('b', null, words(name)), h('pre', null, typeof value === 'string' ? value : JSON.stringify(value, null, 1)))));
}

function tools(task) {
  if (!task?.tools?.length) return null;
  const signature = (tool) => {
    const required = tool.parameters?.required || [];
    return `${tool.name}(${Object.keys(tool.parameters?.properties || {}).map((name) => (required.includes(name) ? name : `${name}?`)).join(', ')})`;
  };
  return h('details', { class: 'panel' }, h('summary', null, h('h2', null, `Tools (${task.tools.length})`)), task.tools.map((tool) => h('details', { class: 'tool' }, h('summary', null, h('code', null, signature(tool))), h('p', null, tool.description), h('pre', null, JSON.stringify(tool.parameters, null, 1)))));
}

/** Show the members of a group beside each other. */
export async function groupView(context, id, file, group) {
  const { page, signal, showPlace } = context;
  const [run, found] = await Promise.all([ask(`runs/${id}`, {}, signal), ask(`runs/${id}/episodes/${file}`, { group, sort: 'member', order: 'up', count: 64 }, signal)]);
  showPlace(['runs', '#/'], [run.place, place(['run', id])], ['episodes', place(['run', id, 'episodes', file])], [`group ${group}`]);
  const members = await Promise.all(found.rows.map((row) => ask(`runs/${id}/episodes/${file}/${row.row}`, {}, signal)));
  if (members.length === 0) {
    put(page, h('section', { class: 'empty' }, h('h1', null, `Group ${group}`), h('p', null, 'It has no episodes in this file.')));
    return;
  }
  const task = members[0].task;
  const mean = members.filter((one) => !one.figures.failed);
  const average = mean.reduce((sum, one) => sum + one.figures.reward, 0) / Math.max(1, mean.length);
  put(page, h('div', { class: 'headline' }, h('h1', null, `Group ${group}`), h('p', { class: 'quiet' }, `${members.length} members, mean reward ${reward(average)}`)),
    task ? h('section', { class: 'panel' }, h('div', { class: 'talk' }, (task.messages || []).map((message) => bubble(message))), hidden(task)) : null,
    h('div', { class: 'members' }, members.map((one) => h('section', { class: `panel ${one.figures.failed ? '' : one.figures.reward > average ? 'above' : one.figures.reward < average ? 'below' : ''}` }, h('div', { class: 'headline' }, h('h2', null, h('a', { href: place(['run', id, 'episode', file, one.figures.row]) }, one.trajectory.id)), rewardChip(one.figures)), h('div', { class: 'talk' }, conversation({ messages: [] }, one.trajectory, null))))));
}
