import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { EditorExtensionRegistry, IEditorExtensionRegistry } from '@jupyterlab/codemirror';
import type { DocumentRegistry } from '@jupyterlab/docregistry';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator, nullTranslator } from '@jupyterlab/translation';
import { blockHighlight } from '../blockhighlight';
import { Dockerfiles } from '../dockerfiles';
import { Options } from '../options';
import { DOMAIN, IProjectsModel } from '../tokens';

export const dockerfile: JupyterFrontEndPlugin<void> = {
  id: '@ds01/kernels:dockerfile',
  description:
    'Marks the block that is ours in Dockerfiles, and offers a rebuild when an edited one is saved.',
  requires: [IProjectsModel],
  optional: [IEditorExtensionRegistry, ITranslator, ISettingRegistry],
  autoStart: true,
  activate: (
    app: JupyterFrontEnd,
    model: IProjectsModel,
    extensions: IEditorExtensionRegistry | null,
    translator: ITranslator | null,
    settings: ISettingRegistry | null
  ): void => {
    const trans = (translator ?? nullTranslator).load(DOMAIN);
    const note = trans.__('Save and Rebuild write this block');
    extensions?.addExtension({
      name: 'ds01-managed-block',
      default: true,
      schema: {
        type: 'boolean',
        title: trans.__('Mark the block of packages in Dockerfiles'),
        description: trans.__('Whether to mark the lines of a Dockerfile that Save and Rebuild write.')
      },
      factory: ({ inline, model: text }) =>
        inline ? null : EditorExtensionRegistry.createConditionalExtension(blockHighlight(text, note))
    });

    const files = new Dockerfiles(model, app.serviceManager.contents, app.commands, trans);
    app.docRegistry.addWidgetExtension('Editor', {
      createNew: (_, context: DocumentRegistry.Context) => files.follow(context)
    });
    const options = new Options<{ offer: boolean }>({ offer: true });
    options.changed.connect(() => {
      files.offers = options.values.offer;
    });
    void options.follow(settings, dockerfile.id);
  }
};
