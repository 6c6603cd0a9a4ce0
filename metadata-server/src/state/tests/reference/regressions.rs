//! Histories in which `state` once differed from the model, as short as they could be made.
