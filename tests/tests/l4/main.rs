//! Connections, whatever they carry: many of them, those that end oddly, that do nothing of what they should, that
//! the kernel redirected, and the choice of what they speak.

mod declared_http;
mod first_bytes;
mod floods;
mod kit;
mod protocol_choice;
mod redirected;
mod resets;
