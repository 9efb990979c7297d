//! What an image tells the programs that run in it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Defaults that come with an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageConfig {
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Program and arguments that come before any command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments where no command is given; the program itself where there is no entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Who processes are unless an agent's creator says otherwise; without it they are `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<ImageUser>,
}

/// The user that an image names, inside the agent's user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImageUser {
    /// User id, 0 to 65534.
    pub uid: u32,
    /// Id of its group, 0 to 65534.
    pub gid: u32,
    /// Its name, where the image has one for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl ImageConfig {
    /// The same with another entrypoint. The image's own arguments were for the one that it replaces.
    pub fn with_entrypoint(self, entrypoint: Option<Vec<String>>) -> Self {
        match entrypoint {
            Some(entrypoint) => Self { entrypoint, cmd: Vec::new(), ..self },
            None => self,
        }
    }

    /// What runs when this command is asked for; empty when neither it nor the image names a program.
    pub fn argv(&self, command: &[String]) -> Vec<String> {
        let arguments = if command.is_empty() { &self.cmd[..] } else { command };
        self.entrypoint.iter().chain(arguments).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::ImageConfig;

    #[test]
    fn a_command_takes_the_place_of_the_images_own() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |entrypoint, cmd, command, expected| {
            let config = ImageConfig { entrypoint: words(entrypoint), cmd: words(cmd), ..Default::default() };
            assert_eq!(config.argv(&words(command)), words(expected));
        };
        check("", "", "", "");
        check("", "bash", "", "bash");
        check("", "bash", "ls -l", "ls -l");
        check("tini --", "serve", "", "tini -- serve");
        check("tini --", "serve", "ls", "tini -- ls");
    }
}
