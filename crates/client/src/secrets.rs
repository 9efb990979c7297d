//! The control API on secrets. No answer has a value.

use crate::control::Control;
use crate::error::Error;
use model::EventId;
use model::secret::{CreateSecret, RotateSecret, Secret, SetHosts};
use reqwest::RequestBuilder;

impl Control {
    /// Keeps a value for agents. A lost answer is asked for again under the same idempotency key.
    pub async fn create_secret(&self, create: &CreateSecret) -> Result<Secret, Error> {
        self.once(|| self.endpoint.post(&["v1", "secrets"]).json(create)).await
    }

    /// Gives a secret another value, by id or name.
    pub async fn rotate_secret(&self, reference: &str, rotate: &RotateSecret) -> Result<Secret, Error> {
        self.once(|| self.endpoint.post(&["v1", "secrets", reference, "rotate"]).json(rotate)).await
    }

    async fn once(&self, request: impl Fn() -> RequestBuilder) -> Result<Secret, Error> {
        let key = EventId::new().base32();
        let request = || request().header("idempotency-key", &key);
        match self.endpoint.json(request()).await {
            Err(Error::Lost { .. }) => self.endpoint.json(request()).await,
            answer => answer,
        }
    }

    /// All secrets, newest first.
    pub async fn secrets(&self) -> Result<Vec<Secret>, Error> {
        self.pages(|| self.endpoint.get(&["v1", "secrets"])).await
    }

    /// One secret, by id or name.
    pub async fn secret(&self, reference: &str) -> Result<Secret, Error> {
        self.endpoint.json(self.endpoint.get(&["v1", "secrets", reference])).await
    }

    /// Says which hosts a secret may go to, by id or name.
    pub async fn set_secret_hosts(&self, reference: &str, hosts: &SetHosts) -> Result<Secret, Error> {
        self.endpoint.json(self.endpoint.put(&["v1", "secrets", reference, "hosts"]).json(hosts)).await
    }

    /// Deletes a secret, by id or name.
    pub async fn remove_secret(&self, reference: &str) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.delete(&["v1", "secrets", reference])).await.map(drop)
    }

    /// Makes another key for the account's secrets.
    pub async fn rotate_data_key(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.post(&["v1", "data-key", "rotate"])).await.map(drop)
    }

    /// Makes another key that wraps the keys of all accounts; for operators.
    pub async fn rotate_wrapping_key(&self) -> Result<(), Error> {
        self.endpoint.send(self.endpoint.post(&["v1", "wrapping-key", "rotate"])).await.map(drop)
    }
}
