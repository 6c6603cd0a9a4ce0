//! Which node of the cell is talked to: the one that leads, as far as the mount knows.

use sitefs_base::{Error, Result};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A channel to a node, shared by the session and the transfers of blobs.
pub type Channel = tonic::transport::Channel;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The same where other nodes can be asked instead.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_millis(500);
/// Channels that are kept.
const CHANNELS_MAX: usize = 16;

/// The way to the cell; it changes when another node leads.
#[derive(Debug)]
pub struct Route {
    /// What people gave: `HOST:PORT` of one node or several.
    addresses: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: String,
    /// The place in the list of the node that was tried last.
    tried: usize,
    channels: HashMap<String, Channel>,
}

impl Route {
    /// The way to a cell at `HOST:PORT`, or at several with commas between them. Inside a runtime only.
    pub fn new(addresses: &str) -> Result<Self> {
        let addresses: Vec<String> = addresses.split(',').map(|address| address.trim().to_owned()).collect();
        let mut channels = HashMap::new();
        for address in &addresses {
            channels.insert(address.clone(), connect(address, addresses.len() > 1)?);
        }
        let current = addresses[0].clone();
        Ok(Self { addresses, state: Mutex::new(State { current, tried: 0, channels }) })
    }

    /// A channel to the current node; it connects when it is used, and again whenever it must.
    pub fn channel(&self) -> Result<Channel> {
        let mut state = self.lock();
        let current = state.current.clone();
        if let Some(channel) = state.channels.get(&current) {
            return Ok(channel.clone());
        }
        if state.channels.len() >= CHANNELS_MAX {
            state.channels.clear();
        }
        let channel = connect(&current, self.is_of_several())?;
        state.channels.insert(current, channel.clone());
        Ok(channel)
    }

    /// The current node.
    pub fn address(&self) -> String {
        self.lock().current.clone()
    }

    /// How many nodes were given.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether another node can be asked.
    pub fn is_of_several(&self) -> bool {
        self.addresses.len() > 1
    }

    /// A node said that this one leads.
    pub fn go_to(&self, leader: &str) {
        let mut state = self.lock();
        if let Some(place) = self.addresses.iter().position(|address| address == leader) {
            state.tried = place;
        }
        leader.clone_into(&mut state.current);
    }

    /// The current node does not lead, or does not answer: the next one is tried.
    pub fn go_on(&self) {
        let mut state = self.lock();
        state.tried = (state.tried + 1) % self.addresses.len();
        state.current = self.addresses[state.tried].clone();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(address: &str, of_several: bool) -> Result<Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::invalid(format!("{address:?} is not a HOST:PORT")).because(error))?;
    let timeout = if of_several { CONNECT_TIMEOUT_OF_SEVERAL } else { CONNECT_TIMEOUT };
    Ok(endpoint
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_list_is_tried_in_turns_and_a_hint_comes_first() {
        let route = Route::new("a:1, b:2,c:3").unwrap();
        assert_eq!((route.address().as_str(), route.len()), ("a:1", 3));
        route.go_on();
        route.go_on();
        assert_eq!(route.address(), "c:3");
        route.go_to("b:2");
        assert_eq!(route.address(), "b:2");
        route.go_to("d:4");
        assert_eq!(route.address(), "d:4");
        route.channel().unwrap();
        route.go_on();
        assert_eq!(route.address(), "c:3", "after the one of the list that was tried last");
        route.go_on();
        assert_eq!(route.address(), "a:1");
        assert!(Route::new("no spaces in it:1").is_err());
    }
}
