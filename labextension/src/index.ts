import type { JupyterFrontEndPlugin } from '@jupyterlab/application';
import { dockerfile } from './plugins/dockerfile';
import { hints } from './plugins/hints';
import { launcher } from './plugins/launcher';
import { commands, current, model } from './plugins/model';
import { panel } from './plugins/panel';
import { place } from './plugins/place';
import { progress } from './plugins/progress';
import { rebuild } from './plugins/rebuild';

const plugins: JupyterFrontEndPlugin<unknown>[] = [
  model,
  current,
  commands,
  place,
  rebuild,
  progress,
  panel,
  launcher,
  hints,
  dockerfile
];

export default plugins;
