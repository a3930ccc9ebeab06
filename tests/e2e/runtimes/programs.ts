import { execFileSync } from 'node:child_process';
import { gzipSync } from 'node:zlib';
import { tar } from '../../../packages/control/test/importer/support/images.ts';

export type Files = Readonly<Record<string, string | Buffer>>;

/** A directory of code, beside which lies a dependency that it greets with. */
export interface Program {
  readonly runtime: string;
  readonly name: string;
  /** Greets its arguments, counts the lines of standard input, and ends with 3. */
  readonly files: Files;
}

const GO: Files = {
  'cocore.json': '{ "entry": "cmd/count/main.go" }\n',
  'cmd/count/main.go': `package main
import ("bufio"; "fmt"; "os"; "strings"; "example.org/count/lines"; "example.org/greet")
func main() {
	fmt.Printf("%s: %d\\n", greet.Greet(strings.Join(os.Args[1:], " ")), lines.Count(bufio.NewScanner(os.Stdin)))
	end()
}
`,
  'cmd/count/end.go': 'package main\nimport "os"\nfunc end() { os.Exit(3) }\n',
  'lines/lines.go': `package lines
import "bufio"
func Count(scanner *bufio.Scanner) (count int) {
	for scanner.Scan() { count++ }
	return
}
`,
  'go.mod': 'module example.org/count\n\ngo 1.19\n\nrequire example.org/greet v1.0.0\n',
  'vendor/modules.txt': '# example.org/greet v1.0.0\n## explicit; go 1.19\nexample.org/greet\n',
  'vendor/example.org/greet/greet.go': 'package greet\nfunc Greet(whom string) string { return "hello " + whom }\n',
};

/** With another program beside the package's own, and with a macro, which runs in the compiler and not in the program. */
const RUST: Files = {
  'Cargo.toml':
    '[package]\nname = "count"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\ngreet = "1"\nloud = "1"\n',
  'src/main.rs': `mod lines;
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    println!("{}: {}", greet::greet(&arguments.join(" ")), lines::count());
    std::process::exit(loud::three!());
}
`,
  'src/lines.rs': 'pub fn count() -> usize { std::io::stdin().lines().count() }\n',
  'src/bin/another.rs': 'fn main() {}\n',
  'vendor/greet/Cargo.toml': '[package]\nname = "greet"\nversion = "1.0.0"\nedition = "2021"\n',
  'vendor/greet/src/lib.rs': 'pub fn greet(whom: &str) -> String { format!("hello {whom}") }\n',
  'vendor/greet/.cargo-checksum.json': '{"files":{}}',
  'vendor/loud/Cargo.toml':
    '[package]\nname = "loud"\nversion = "1.0.0"\nedition = "2021"\n\n[lib]\nproc-macro = true\n',
  'vendor/loud/src/lib.rs': `use proc_macro::TokenStream;
#[proc_macro]
pub fn three(_: TokenStream) -> TokenStream { "3".parse().unwrap() }
`,
  'vendor/loud/.cargo-checksum.json': '{"files":{}}',
};

const GEM = tar([
  {
    name: 'metadata.gz',
    content: gzipSync(`--- !ruby/object:Gem::Specification
name: greet
version: !ruby/object:Gem::Version
  version: 1.0.0
specification_version: 4
platform: ruby
authors: [test]
summary: greets
files: [lib/greet.rb]
require_paths: [lib]
`),
  },
  {
    name: 'data.tar.gz',
    content: gzipSync(tar([{ name: 'lib/greet.rb', content: 'def greet(whom) = "hello #{whom}"\n' }])),
  },
]);

const RUBY: Files = {
  'main.rb':
    'require "greet"\nrequire_relative "lib/count"\nputs "#{greet(ARGV.join(" "))}: #{count(STDIN)}"\nexit 3\n',
  'lib/count.rb': 'def count(lines) = lines.each_line.count\n',
  Gemfile: 'source "https://rubygems.org"\ngem "greet", "~> 1.0"\n',
  'vendor/cache/greet-1.0.0.gem': GEM,
};

/** `javac --release 8 -g:none` of `package example; public class Greet { public static String greet(String whom) { return "hello ".concat(whom); } }` */
const CLASS =
  'yv66vgAAADQAEwoAAgADBwAEDAAFAAYBABBqYXZhL2xhbmcvT2JqZWN0AQAGPGluaXQ+AQADKClWCAAIAQAGaGVsbG8gCgAKAAsHAAwMAA0ADgEAEGphdmEvbGFuZy9TdHJpbmcBAAZj' +
  'b25jYXQBACYoTGphdmEvbGFuZy9TdHJpbmc7KUxqYXZhL2xhbmcvU3RyaW5nOwcAEAEADWV4YW1wbGUvR3JlZXQBAARDb2RlAQAFZ3JlZXQAIQAPAAIAAAAAAAIAAQAFAAYAAQARAAAA' +
  'EQABAAEAAAAFKrcAAbEAAAAAAAkAEgAOAAEAEQAAABMAAgABAAAABxIHKrYACbAAAAAAAAA=';

function jar(): Buffer {
  const script = `
import base64, io, sys, zipfile
archive = io.BytesIO()
with zipfile.ZipFile(archive, 'w') as jar:
    jar.writestr('example/Greet.class', base64.b64decode(sys.argv[1]))
sys.stdout.buffer.write(archive.getvalue())
`;
  return execFileSync('python3', ['-c', script, CLASS]);
}

/** Of more than one file, which Java's launcher of source files could not run. */
const JAVA: Files = {
  'cocore.json': '{ "entry": "src/count/Main.java" }\n',
  'src/count/Main.java': `package count;
import example.Greet;
public class Main {
  public static void main(String[] words) throws Exception {
    var end = Main.class.getResourceAsStream("end.txt").readAllBytes();
    System.out.println(Greet.greet(String.join(" ", words)) + ": " + Lines.count(System.in));
    System.exit(Integer.parseInt(new String(end).strip()));
  }
}
`,
  'src/count/Lines.java': `package count;
import java.io.*;
class Lines {
  static long count(InputStream input) { return new BufferedReader(new InputStreamReader(input)).lines().count(); }
}
`,
  'src/count/end.txt': '3\n',
  'lib/greet.jar': jar(),
};

export const PROGRAMS: readonly Program[] = [
  { runtime: 'ruby', name: 'ruby-gem', files: RUBY },
  { runtime: 'go', name: 'go-module', files: GO },
  { runtime: 'rust', name: 'rust-package', files: RUST },
  { runtime: 'java', name: 'java-jar', files: JAVA },
];

export const RUST_OF_TWO: Files = {
  'Cargo.toml': '[package]\nname = "several"\nversion = "0.1.0"\nedition = "2021"\n',
  'src/bin/one.rs': 'fn main() { println!("one"); }\n',
  'src/bin/two.rs': 'fn main() { println!("two"); }\n',
  'src/other.rs': '// In no program.\n',
};

/** A file by itself that prints its argument. */
export const SINGLE_FILES: Readonly<Record<string, string>> = {
  'single.rb': 'puts ARGV\n',
  'single.go': 'package main\nimport "os"\nfunc main() { os.Stdout.WriteString(os.Args[1] + "\\n") }\n',
  'single.rs': 'fn main() { println!("{}", std::env::args().nth(1).unwrap()); }\n',
  'Single.java': 'class Single { public static void main(String[] words) { System.out.println(words[0]); } }\n',
};
