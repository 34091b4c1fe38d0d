import type { JupyterFrontEndPlugin } from '@jupyterlab/application';
import { dockerfile, launcher } from './plugins/documents';
import { hints } from './plugins/hints';
import { current, model } from './plugins/model';
import { panel } from './plugins/panel';
import { place } from './plugins/place';
import { progress } from './plugins/progress';
import { rebuild } from './plugins/rebuild';

const plugins: JupyterFrontEndPlugin<unknown>[] = [
  model,
  current,
  place,
  rebuild,
  progress,
  panel,
  launcher,
  hints,
  dockerfile
];

export default plugins;
