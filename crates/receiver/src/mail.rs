//! The welcome e-mails that workflows left in the database, sent by SMTP where a mail server is configured.
//!
//! A mail is marked before it is handed over and never handed over twice without the server having refused it: a
//! process that dies in between leaves it marked as `sending`, for a person to judge.

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use tokio_util::sync::CancellationToken;

use crate::config::{ReceiverError, Smtp};
use crate::server::Receiver;
use crate::storage::WelcomeEmail;

const SMTP_TIMEOUT: Duration = Duration::from_secs(20);
/// How often mails are looked for whose time has come.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A mail server and who writes.
pub(crate) struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// Nothing is connected yet.
    pub(crate) fn new(smtp: &Smtp) -> Result<Self, ReceiverError> {
        let from = smtp.from.parse().map_err(|_| ReceiverError::Smtp("from is no e-mail address"))?;
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(&smtp.url)
            .map_err(|_| {
                ReceiverError::Smtp("url is not of the form smtp://user:password@host:587?tls=required")
            })?
            .timeout(Some(SMTP_TIMEOUT))
            .build();
        Ok(Self { transport, from })
    }

    /// Whether the server took it; else a word for the log that names nobody.
    async fn send(&self, mail: &WelcomeEmail) -> Result<(), String> {
        let to = mail.address.parse().map_err(|_| "the address is none".to_owned())?;
        let greeting = mail.first_name.as_deref().map_or_else(String::new, |name| format!(" {name}"));
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject("Welcome")
            .header(ContentType::TEXT_PLAIN)
            .body(format!("Hello{greeting},\n\nyour account is ready.\n"))
            .map_err(|_| "the message cannot be made".to_owned())?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            // The server's own words may repeat the address.
            Err(error) => Err(match error.status() {
                Some(code) => format!("the mail server answers {code}"),
                None => "the mail server cannot be reached".to_owned(),
            }),
        }
    }
}

/// Sends what waits, until `shutdown`.
pub(crate) async fn send_until(receiver: Receiver, shutdown: CancellationToken) {
    let Some(mailer) = receiver.mailer() else { return };
    loop {
        match receiver.storage().claim_welcome_emails().await {
            Ok(mails) if !mails.is_empty() => {
                for mail in mails {
                    settle(&receiver, mailer, &mail).await;
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "receiver.mails.not_read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = receiver.mail_waits() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn settle(receiver: &Receiver, mailer: &Mailer, mail: &WelcomeEmail) {
    let sent = mailer.send(mail).await;
    match &sent {
        Ok(()) => tracing::info!(user.id = mail.convex_user_id, "receiver.mail.sent"),
        Err(reason) => tracing::warn!(user.id = mail.convex_user_id, reason, "receiver.mail.not_sent"),
    }
    if let Err(error) = receiver.storage().settle_welcome_email(mail.email_id, sent.is_ok()).await {
        tracing::error!(%error, user.id = mail.convex_user_id, "receiver.mail.not_settled");
    }
}
