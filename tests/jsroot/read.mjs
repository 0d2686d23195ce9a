// Reads every tree of a DQMIO file with JSROOT and prints one JSON line per entry.
// node read.mjs FILE

import { openFile } from 'jsroot/io';
import { treeProcess, TSelector } from 'jsroot/tree';

const plain = (key, value) => {
   if (typeof value === 'bigint') return value.toString();
   if (typeof value === 'number' && !Number.isFinite(value)) return String(value);
   if (Object.is(value, -0)) return '-0';
   if (ArrayBuffer.isView(value)) return Array.from(value);
   return typeof value === 'function' ? undefined : value;
};

class Printer extends TSelector {
   constructor(tree, name) {
      super();
      this.tree = name;
      for (const branch of tree.fBranches.arr) this.addBranch(branch.fName);
   }

   Process(entry) {
      console.log(JSON.stringify({ tree: this.tree, entry, ...this.tgtobj }, plain));
   }

   Terminate(complete) {
      if (!complete) throw new Error(`${this.tree}: not all entries could be read`);
   }
}

const read = async (file, name) => {
   const tree = await file.readObject(name);
   console.log(JSON.stringify({ tree: name, n_entries: Number(tree.fEntries) }));
   if (Number(tree.fEntries)) await treeProcess(tree, new Printer(tree, name));
};

const file = await openFile(process.argv[2]);
for (const key of file.fKeys) {
   if (key.fClassName === 'TTree') await read(file, key.fName);
   if (key.fClassName !== 'TDirectory') continue;
   const folder = await file.readDirectory(key.fName);
   for (const inner of folder.fKeys) await read(file, `${key.fName}/${inner.fName}`);
}
