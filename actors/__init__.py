"""The distributed parts of a run: engines, rewards and learners as Ray actors, and what conducts them."""
