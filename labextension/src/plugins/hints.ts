import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { Hint, MISSING } from '../hint';
import { LostNotes } from '../lostnotes';
import { Options } from '../options';
import { DOMAIN, IProjectsModel } from '../tokens';

/** Before plain text, which every hint also has. */
const RANK = 20;

export const hints: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:hints',
  description: 'Offers to install what is missing, and to restore what was lost.',
  requires: [IProjectsModel],
  optional: [IRenderMimeRegistry, ITranslator, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    rendermime: IRenderMimeRegistry | null,
    translator: ITranslator | null,
    settings: ISettingRegistry | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const options = new Options<{ install: boolean; lost: boolean }>({ install: true, lost: true });
    rendermime?.addFactory(
      {
        safe: true,
        mimeTypes: [MISSING],
        createRenderer: () => new Hint(model, app.commands, options.values.install, trans)
      },
      RANK
    );
    const lost = new LostNotes(model, app.commands, trans);
    void options.follow(settings, hints.id).then(() => {
      const look = (): void => {
        if (options.values.lost) {
          lost.look();
        }
      };
      model.changed.connect(look);
      look();
    });
  }
};
