# Environment script for SWAN: give its path (on CERNBox) in the form that starts a session.
# It makes an environment with ml4ad once, and offers it as the kernel "ml4ad" ever after.
#   ML4AD_ENV       folder of the environment     (default: ~/ml4ad-env)
#   ML4AD_PACKAGE   what pip installs             (default: ml4ad; a path or a git URL will do)
: "${ML4AD_ENV:=$HOME/ml4ad-env}"

# The session's software release puts its own packages first; this environment needs its own only.
ml4ad_alone() { env -u PYTHONPATH -u PYTHONHOME PYTHONNOUSERSITE=1 "$@"; }

if [ ! -x "$ML4AD_ENV/bin/ml4ad" ]; then
    ml4ad_alone python3 -m venv "$ML4AD_ENV" &&
        ml4ad_alone "$ML4AD_ENV/bin/pip" install --quiet "${ML4AD_PACKAGE:-ml4ad}"
fi
ml4ad_alone "$ML4AD_ENV/bin/ml4ad" kernels install --user --isolated
export PATH="$PATH:$ML4AD_ENV/bin"
unset -f ml4ad_alone
