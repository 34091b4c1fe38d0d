import { LabIcon } from '@jupyterlab/ui-components';

// Drawn for JupyterLab's 24 by 24 grid; the class lets the theme colour them.
const CONTAINER = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <path class="jp-icon3" fill="#616161" d="M12 2 3 6.5v11L12 22l9-4.500v-11zM12 4.200 17.600 7 12 9.800 6.400 7zM5 8.600l6 3v7.700l-6-3zm14 0v7.700l-6 3v-7.700z"/>
</svg>`;

export const containerIcon = new LabIcon({ name: 'ds01-kernels:container', svgstr: CONTAINER });
