/** Opens an importer in the directory given, begins one import, and says so when it pulls. For a test that kills it. */
import { ImageImporter } from '../../../src/importer/image-importer.ts';
import { requestOf } from './importer.ts';

const [directory, reference] = process.argv.slice(2);
const importer = new ImageImporter({ directory: directory! });
await importer.open();
await importer.import(requestOf(reference!), ({ phase }) => console.log(phase));
