//! `meridian completions SHELL`.

use clap::Args;
use clap_complete::Shell;

use crate::error::CliError;

/// Prints a completion script.
#[derive(Debug, Args)]
#[command(after_help = "Example: meridian completions bash > /etc/bash_completion.d/meridian")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(&self) -> Result<(), CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::grammar(), "meridian", &mut script);
        Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
    }
}
