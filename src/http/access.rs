//! Who may use which route: the one place that says it. Nobody is refused by it until there are tokens.
//!
//! Promises that each route says what it demands, in its own row of the table; the published document and the guide
//! are held against that.

/// What a principal may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Looks at everything and changes nothing: auditors, dashboards.
    Viewer,
    /// Submits jobs, and sees and cancels those that it submitted.
    Submitter,
    /// Sees everything, and acts on jobs, lanes and the relay.
    Operator,
    /// Does all of that, and brings records in from outside.
    Admin,
}

/// Of whose things a role may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Nobody's.
    Nothing,
    /// Those of the principal itself: its jobs.
    Own,
    /// Everybody's.
    All,
}

/// What a route demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: probes. Strangers get no detail.
    Open,
    /// To look at what belongs to nobody in particular.
    Look,
    /// To look at a job.
    LookAtJob,
    /// To submit a job.
    Submit,
    /// To change a job.
    ChangeJob,
    /// An operator's command.
    Operate,
    /// To bring records in as they are.
    Bring,
}

#[cfg_attr(not(test), expect(dead_code, reason = "nobody is refused until there are tokens"))]
impl Role {
    pub(super) const ALL: [Role; 4] = [Role::Viewer, Role::Submitter, Role::Operator, Role::Admin];

    /// The stable name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Submitter => "submitter",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "nobody is refused until there are tokens"))]
impl Reach {
    /// The stable name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Reach::Nothing => "no",
            Reach::Own => "own",
            Reach::All => "all",
        }
    }
}

#[cfg_attr(not(test), expect(dead_code, reason = "nobody is refused until there are tokens"))]
impl Access {
    pub(super) const ALL: [Access; 7] = [
        Access::Open,
        Access::Look,
        Access::LookAtJob,
        Access::Submit,
        Access::ChangeJob,
        Access::Operate,
        Access::Bring,
    ];

    /// The stable name, as the published document has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Access::Open => "open",
            Access::Look => "look",
            Access::LookAtJob => "look-at-job",
            Access::Submit => "submit",
            Access::ChangeJob => "change-job",
            Access::Operate => "operate",
            Access::Bring => "bring",
        }
    }

    /// Whose things a role may use such a route for.
    pub(super) const fn reach(self, role: Role) -> Reach {
        match (self, role) {
            (Access::Open, _) | (_, Role::Admin) => Reach::All,
            (Access::Look | Access::LookAtJob, Role::Viewer | Role::Operator) => Reach::All,
            (Access::LookAtJob | Access::ChangeJob | Access::Submit, Role::Submitter) => Reach::Own,
            (Access::Submit | Access::ChangeJob | Access::Operate, Role::Operator) => Reach::All,
            (Access::Look | Access::Operate | Access::Bring, Role::Submitter)
            | (Access::Submit | Access::ChangeJob | Access::Operate | Access::Bring, Role::Viewer)
            | (Access::Bring, Role::Operator) => Reach::Nothing,
        }
    }
}
