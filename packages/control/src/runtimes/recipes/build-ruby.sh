# Installs the gems of a Gemfile, as they are locked where they are, with vendor/cache from there alone.
#
#   build-ruby.sh CODE
#
# They lie as Ruby's own package manager has them, so that a program needs no bundler to find them.
set -eu
# Bundler writes a lock file, and beside it.
cp -R -- "$1" /tmp/build
cd /tmp/build
export BUNDLE_APP_CONFIG=/tmp/config BUNDLE_USER_HOME=/tmp/home BUNDLE_PATH=/tmp/gems BUNDLE_WITHOUT=development:test
# Whichever bundler the lock file names, the image's is there.
export BUNDLE_VERSION=system BUNDLE_SILENCE_ROOT_WARNING=1
set --
if [ -d vendor/cache ]; then set -- --local; fi
bundle install "$@"
if grep -Eqx 'GIT|PATH' Gemfile.lock; then
  echo 'error: the Gemfile takes gems from git, from a path or from a gemspec; only what a registry or vendor/cache has as a gem is found by require' >&2
  exit 1
fi
layer=/tmp/gems/$(ruby -e 'print RUBY_ENGINE, "/", Gem.ruby_api_version')
mkdir -p -- "$layer"
rm -rf -- "$layer/cache"
tar -C "$layer" -cf "$COCORE_OUT/layer.tar" .
