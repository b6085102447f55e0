//! The matchmakers in Redis and in memory make the same decisions: random calls have the same answers
//! and cause the same events.
//!
//! The client's clock stands still except when the test advances it, and Redis is kept at the same
//! time by moving what it has stored. `SEED` repeats a run.

#![expect(clippy::print_stdout, reason = "a failing run shows its seed")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use broker::{
    Broker, BrokerError, Event, Grant, Matchmaker, Memory, MemoryCell, NodeInfo, Registered,
    Retried, Submit, Submitted,
};
use support::{Random, RedisCell, address, cell, info, node, plain, seed, walk};
use tokio::sync::mpsc::UnboundedReceiver;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

const CASES: u64 = 20;
const CALLS: u32 = 300;
/// Two agents have one name.
const NODES: [&str; 6] = ["a", "a-b", "b", "c", "d", "a"];
const WALKS: u64 = 12;

/// Sums of these are at least 20 ms away from every limit.
const STEPS: [Duration; 2] = [Duration::from_millis(80), Duration::from_millis(400)];
/// A call that takes longer may meet a limit in Redis alone: its case begins again.
const CALL_MAX: Duration = Duration::from_millis(15);
/// Cases that may be begun on a slow machine.
const BEGUN_MAX: u64 = CASES * 20;
/// How long an event may take.
const EVENT_MAX: Duration = Duration::from_secs(5);

/// Moves all stored times by what has passed since ARGV[1], less ARGV[2]; returns Redis's time. What a
/// call stored a little later than the time at which the test sees it must not be in the future.
const MOVE: &str = "
local w, time = KEYS[1], redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local passed, step = now - tonumber(ARGV[1]), tonumber(ARGV[2])
for _, key in ipairs({ w .. ':lease', w .. ':past' }) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    redis.call('ZINCRBY', key, passed - step, member)
  end
end
for _, field in ipairs({ 'reaped', 'grace' }) do
  local at = tonumber(redis.call('HGET', w .. ':count', field))
  if at then
    at = at + passed
    if field == 'reaped' then
      at = math.min(at, now)
    end
    redis.call('HSET', w .. ':count', field, string.format('%d', at - step))
  end
end
for _, key in ipairs(redis.call('KEYS', w .. ':up:*')) do
  redis.call('PEXPIREAT', key, redis.call('PEXPIRETIME', key) + passed - step)
end
return now";

#[tokio::test]
async fn redis_and_memory_decide_alike() {
    let seed = seed();
    println!("SEED={seed}");
    let redis = cell().await;
    tokio::time::pause();
    // The clock would advance by itself whenever nobody is busy.
    tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
    let (mut done, mut begun) = (0, 0);
    while done < CASES {
        begun += 1;
        assert!(begun <= BEGUN_MAX, "the machine is too slow to compare");
        let mut case = Case::new(&redis, begun, Random(seed ^ (done << 32))).await;
        if case.run(&format!("SEED={seed}, case {done}")).await {
            done += 1;
        }
    }
    println!("{begun} cases were begun");
}

/// A call.
#[derive(Debug)]
enum Ask {
    Register(NodeInfo),
    Heartbeat,
    Leave(NodeId),
    List,
    Submit(Submit),
    Retry(WalkId, Attempt, Option<NodeId>),
    Finish(WalkId, NodeId, Attempt),
    Cancel(WalkId),
    CancelSession(SessionId),
    ReapNode(NodeId),
}

/// What was answered, as far as it must be the same.
#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    grant: Option<Grant>,
}

/// A node's access to one of the matchmakers.
struct Access<M> {
    broker: M,
    events: UnboundedReceiver<Event>,
    /// The number of the list of nodes, as the last heartbeat told it.
    list: u64,
}

impl<M: Matchmaker> Access<M> {
    fn new((broker, events): (M, UnboundedReceiver<Event>)) -> Self {
        Self { broker, events, list: 0 }
    }

    async fn ask(&mut self, ask: &Ask) -> Answer {
        let mut grant = None;
        let text = match ask {
            Ask::Register(info) => match self.broker.register(info).await {
                Err(BrokerError::NameTaken { address, .. }) => format!("taken by {address}"),
                registered => format!("{registered:?}"),
            },
            Ask::Heartbeat => self.beat().await,
            Ask::Leave(node) => format!("{:?}", self.broker.leave(node).await),
            Ask::List => self.shown_list().await,
            Ask::Submit(submit) => {
                let submitted = self.broker.submit(submit).await;
                if let Ok(Submitted::Granted(granted)) = &submitted {
                    grant = Some(granted.clone());
                }
                format!("{submitted:?}")
            }
            Ask::Retry(walk, attempt, avoid) => {
                let retried = self.broker.retry(*walk, *attempt, avoid.as_ref()).await;
                if let Ok(Retried::Submitted(Submitted::Granted(granted))) = &retried {
                    grant = Some(granted.clone());
                }
                format!("{retried:?}")
            }
            Ask::Finish(walk, node, attempt) => {
                format!("{:?}", self.broker.finish(*walk, node, *attempt).await)
            }
            Ask::Cancel(walk) => format!("{:?}", self.broker.cancel(*walk).await),
            Ask::CancelSession(session) => {
                format!("{:?}", self.broker.cancel_session(*session).await)
            }
            Ask::ReapNode(node) => format!("{:?}", self.broker.reap_node(node).await),
        };
        Answer { text, grant }
    }

    /// The numbers of the lists differ; they must change at the same time.
    async fn beat(&mut self) -> String {
        match self.broker.heartbeat().await.expect("answers") {
            Registered::Yes { list, others_wait } => {
                let before = std::mem::replace(&mut self.list, list);
                format!("changed: {}, others wait: {others_wait}", list != before)
            }
            Registered::No => "unknown".to_owned(),
        }
    }

    /// Times are multiples of the shortest step; those of Redis are inexact.
    async fn shown_list(&self) -> String {
        let step = STEPS[0].as_millis();
        let steps = |age: Duration| (age.as_millis() + step / 2) / step;
        let (mut nodes, mut past) = self.broker.list().await.expect("lists");
        nodes.sort_by(|a, b| a.info.node.cmp(&b.info.node));
        past.sort_by(|a, b| a.node.cmp(&b.node));
        let nodes = nodes.iter().map(|n| (&n.info, n.running, n.alive, steps(n.heard_ago)));
        let past = past.iter().map(|past| (&past.node, past.left, steps(past.heard_ago)));
        format!("{:?} {:?}", nodes.collect::<Vec<_>>(), past.collect::<Vec<_>>())
    }
}

/// A node's access to both.
struct Agent {
    name: NodeId,
    redis: Access<Broker>,
    memory: Access<Memory>,
    /// The newest attempts that it has heard of.
    granted: BTreeMap<WalkId, (NodeId, Attempt)>,
}

impl Agent {
    async fn ask(&mut self, ask: &Ask) -> [Answer; 2] {
        let redis = self.redis.ask(ask).await;
        self.note(redis.grant.clone());
        [redis, self.memory.ask(ask).await]
    }

    /// The order of what one call tells a node may differ.
    async fn compare_events(&mut self, context: &str) {
        let mut memory: Vec<_> =
            std::iter::from_fn(|| self.memory.events.try_recv().ok()).collect();
        let mut redis = Vec::new();
        let begun = Instant::now();
        while redis.len() < memory.len() && begun.elapsed() < EVENT_MAX {
            match self.redis.events.try_recv() {
                Ok(event) => redis.push(event),
                Err(_) => tokio::task::yield_now().await,
            }
        }
        redis.extend(std::iter::from_fn(|| self.redis.events.try_recv().ok()));
        redis.sort_by_key(|event| format!("{event:?}"));
        memory.sort_by_key(|event| format!("{event:?}"));
        assert_eq!(redis, memory, "events of {}, {context}", self.name);
        for event in redis {
            if let Event::Granted(grant) = event {
                self.note(Some(grant));
            }
        }
    }

    fn note(&mut self, grant: Option<Grant>) {
        if let Some(Grant { walk, node, attempt, .. }) = grant {
            self.granted.insert(walk, (node, attempt));
        }
    }
}

/// Random calls at new matchmakers.
struct Case {
    random: Random,
    clock: Clock,
    agents: Vec<Agent>,
}

impl Case {
    async fn new(redis: &RedisCell, number: u64, random: Random) -> Self {
        let cell = format!("case-{number}");
        let memory = MemoryCell::default();
        let mut agents = Vec::new();
        for name in NODES.map(node) {
            let broker = Broker::connect(redis.server.url(), &cell, &name).await;
            let redis = Access::new(broker.expect("the broker answers"));
            let memory = Access::new(Memory::connect(&memory, &name));
            agents.push(Agent { name, redis, memory, granted: BTreeMap::new() });
        }
        let clock = Clock::new(redis, format!("{{{cell}}}6"));
        Self { random, clock, agents }
    }

    /// Makes the calls; false if the machine was too slow.
    async fn run(&mut self, context: &str) -> bool {
        for number in 0..CALLS {
            if self.random.below(30) == 0 {
                let step = STEPS[self.below(STEPS.len())];
                self.clock.advance(step).await;
            }
            let index = self.below(NODES.len());
            let ask = self.ask(index);
            let context = format!("{context}, call {number}: {} {ask:?}", self.agents[index].name);
            let begun = Instant::now();
            self.clock.keep();
            let [redis, memory] = self.agents[index].ask(&ask).await;
            if begun.elapsed() > CALL_MAX {
                return false;
            }
            assert_eq!(redis, memory, "{context}");
            for agent in &mut self.agents {
                agent.compare_events(&context).await;
            }
        }
        // An answer comes after all events before it.
        self.clock.keep();
        for agent in &mut self.agents {
            let _ = agent.redis.broker.list().await;
            agent.compare_events(context).await;
        }
        true
    }

    /// Returns a random call of an agent.
    fn ask(&mut self, index: usize) -> Ask {
        match self.random.below(100) {
            0..42 => Ask::Submit(self.submit(index)),
            42..62 => {
                let (walk, node, attempt) = self.attempt(index);
                Ask::Finish(walk, node, attempt)
            }
            62..69 => {
                let (walk, node, attempt) = self.attempt(index);
                let avoid = (self.random.below(2) == 0).then_some(node);
                Ask::Retry(walk, attempt, avoid)
            }
            69..73 => Ask::Cancel(self.walk()),
            73..75 => Ask::CancelSession(self.walk().session),
            75..86 => Ask::Heartbeat,
            86..93 => Ask::Register(self.info(index)),
            93..95 => Ask::ReapNode(self.node()),
            95..96 => Ask::Leave(self.node()),
            _ => Ask::List,
        }
    }

    fn submit(&mut self, index: usize) -> Submit {
        let mut some = |most: u64| {
            let count = self.random.below(most);
            (0..count).map(|_| self.node()).collect::<Vec<_>>()
        };
        let (avoid, near, prefer, only) = (some(3), some(3), some(3), some(2));
        let only = only.into_iter().next().filter(|_| self.random.below(4) == 0);
        let after = Attempt(u32::from(self.random.below(10) == 0));
        let walk = self.walk_of(index);
        // A user each for both sessions of some agents, and for either session of the others.
        let uid = u32::from(walk.session.0 % 4 == 3);
        Submit { after, uid, only, avoid, near, prefer, ..plain(walk) }
    }

    fn info(&mut self, index: usize) -> NodeInfo {
        let name = NODES[index];
        let place = if self.random.below(3) == 0 { "elsewhere" } else { name };
        let slots = u32::try_from(self.random.below(4)).expect("small");
        NodeInfo { address: address(place), ..info(name, slots) }
    }

    /// Returns an attempt that the agent was granted or, now and then, one that never was.
    fn attempt(&mut self, index: usize) -> (WalkId, NodeId, Attempt) {
        let granted = self.agents[index].granted.clone();
        let choice = self.below(granted.len() + 1);
        let Some((walk, (node, attempt))) = granted.into_iter().nth(choice) else {
            return (self.walk_of(index), self.node(), Attempt(1));
        };
        match self.random.below(10) {
            0 => (walk, node, Attempt(attempt.0.saturating_sub(1))),
            1 => (walk, node, Attempt(attempt.0 + 1)),
            2 => (walk, self.node(), attempt),
            _ => (walk, node, attempt),
        }
    }

    fn walk(&mut self) -> WalkId {
        let index = self.below(NODES.len());
        self.walk_of(index)
    }

    /// Returns a walk of one of the agent's two sessions.
    fn walk_of(&mut self, index: usize) -> WalkId {
        let session = 2 * index as u64 + self.random.below(2);
        walk(session, u32::try_from(1 + self.random.below(WALKS)).expect("small"))
    }

    fn node(&mut self) -> NodeId {
        node(NODES[self.below(NODES.len())])
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("small")
    }
}

/// Keeps what Redis has stored at the runtime's time.
struct Clock {
    connection: redis::Connection,
    key: String,
    now: i64,
}

impl Clock {
    fn new(redis: &RedisCell, key: String) -> Self {
        let client = redis::Client::open(redis.server.url()).expect("a URL");
        let connection = client.get_connection().expect("redis answers");
        let mut clock = Self { connection, key, now: 0 };
        clock.keep();
        clock
    }

    /// Takes back what has passed since the last call.
    fn keep(&mut self) {
        self.shift(Duration::ZERO);
    }

    /// Lets time pass everywhere.
    async fn advance(&mut self, step: Duration) {
        tokio::time::advance(step).await;
        self.shift(step);
    }

    fn shift(&mut self, passed: Duration) {
        let mut eval = redis::cmd("EVAL");
        eval.arg(MOVE).arg(1).arg(&self.key).arg(self.now);
        let passed = u64::try_from(passed.as_millis()).expect("small");
        self.now = eval.arg(passed).query(&mut self.connection).expect("moves");
    }
}
